"""Batch norm by PyTorch's own kernels and by cuDNN, and the ways to apply SGD."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.bench.survey.clock import Deadline, time_work
from pipeline.bench.survey.scope import LAYOUTS, Scope
from pipeline.models import create_model
from pipeline.networks.layers import layer_table


def survey_batch_norms(scope: Scope, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Measure forward and backward of the batch norm behind each stage's last convolution.

    PyTorch never passes bfloat16 to cuDNN, so there the two rows of a case are the same kernel.
    """
    table = layer_table(scope.model, scope.num_classes, scope.image_size_px)
    shapes = {(layer.out_channels, layer.out_size) for layer in table if layer.kind == "add"}
    for channels, size in sorted(shapes):
        for dtype in scope.dtypes:
            for layout, memory_format in LAYOUTS.items():
                for is_allowed in (True, False):
                    if deadline.seconds_left <= 0:
                        return
                    shape = (scope.kernel_batch, channels, size, size)
                    images = torch.randn(shape, device=scope.device, dtype=dtype).contiguous(
                        memory_format=memory_format
                    )
                    with torch.backends.cudnn.flags(enabled=is_allowed):
                        spread = _time_batch_norm(images, scope.device)
                    yield {
                        "shape": f"{channels}x{size}x{size}",
                        "batch": scope.kernel_batch,
                        "precision": str(dtype).removeprefix("torch."),
                        "layout": layout,
                        "cudnn allowed": is_allowed,
                        "forward and backward us": {key: 1e6 * value for key, value in spread.items()},
                    }


def _time_batch_norm(images: torch.Tensor, device: torch.device) -> dict[str, float]:
    images.requires_grad_()
    channels = images.shape[1]
    weight = torch.ones(channels, device=device, requires_grad=True)
    bias = torch.zeros(channels, device=device, requires_grad=True)
    mean, variance = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    gradient = torch.randn_like(images)

    def work() -> object:
        output = F.batch_norm(images, mean, variance, weight, bias, training=True)
        return torch.autograd.grad(output, (images, weight, bias), gradient)

    return dataclasses.asdict(time_work(work, device))


def survey_sgd(scope: Scope, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Measure one optimizer step over all parameters of the network, in float32."""
    with scope.device:
        parameters = list(create_model(scope.model, scope.num_classes).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    for name, options in (
        ("one by one", {"foreach": False}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
    ):
        if deadline.seconds_left <= 0:
            return
        optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4, **options)
        spread = dataclasses.asdict(time_work(optimizer.step, scope.device))
        yield {"sgd": name, "step us": {key: 1e6 * value for key, value in spread.items()}}
