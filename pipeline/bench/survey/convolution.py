"""The network's grouped convolutions, every layout, type and direction, alone and with groups merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.bench.survey.clock import Deadline, figures_or_error, time_work
from pipeline.bench.survey.scope import LAYOUTS, Scope
from pipeline.networks.layers import Layer, layer_table

_MERGED_INPUTS = 64
"""Input channels of a merged group: as many as suit matrix units."""


def survey_convolutions(scope: Scope, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yield a row for each case: microseconds of forward, gradient of the input and gradient of the weights.

    A merged case computes the same outputs with fewer, larger groups whose weights are zero between the original ones:
    more arithmetic, in a shape that suits the kernels.
    """
    table = layer_table(scope.model, scope.num_classes, scope.image_size_px)
    grouped = {_shape(layer): layer for layer in table if (layer.groups or 1) > 1}
    counts = {shape: sum(_shape(layer) == shape for layer in table) for shape in grouped}
    for shape, layer in grouped.items():
        for dtype in scope.dtypes:
            for layout, memory_format in LAYOUTS.items():
                for is_merged in (False, True):
                    if deadline.seconds_left <= 0:
                        return
                    yield {
                        "shape": "x".join(map(str, shape)),
                        "count": counts[shape],
                        "batch": scope.kernel_batch,
                        "precision": str(dtype).removeprefix("torch."),
                        "layout": layout,
                        "merged": is_merged,
                        **figures_or_error(
                            lambda case=(layer, scope, dtype, memory_format, is_merged): (  # type: ignore[misc]
                                _Convolution.of(*case).measure()
                            )
                        ),
                    }


def _shape(layer: Layer) -> tuple[int, ...]:
    """Return inputs, outputs, stride and side of the output."""
    return (layer.in_channels, layer.out_channels, layer.stride or 1, layer.out_size)


@dataclasses.dataclass(frozen=True)
class _Convolution:
    images: torch.Tensor
    weight: torch.Tensor
    gradient: torch.Tensor
    stride: int
    groups: int

    @classmethod
    def of(
        cls, layer: Layer, scope: Scope, dtype: torch.dtype, memory_format: torch.memory_format, is_merged: bool
    ) -> _Convolution:
        inputs, outputs, stride, out_size = _shape(layer)
        groups = layer.groups or 1
        weight = torch.randn(outputs, inputs // groups, 3, 3)
        if is_merged:
            weight, groups = merge_groups(weight, groups, min(inputs, _MERGED_INPUTS))
        shape = (scope.kernel_batch, inputs, out_size * stride, out_size * stride)
        images = torch.randn(shape, device=scope.device, dtype=dtype).contiguous(memory_format=memory_format)
        weight = weight.to(scope.device, dtype).contiguous(memory_format=memory_format)
        gradient = torch.randn_like(F.conv2d(images, weight, stride=stride, padding=1, groups=groups))
        return cls(images, weight, gradient, stride, groups)

    def measure(self) -> dict[str, Any]:
        """Return microseconds of each direction, and the rate of one read and one write of the maps."""
        device = self.images.device
        moved = self.images.nbytes + self.gradient.nbytes
        row: dict[str, Any] = {}
        for name, work in (
            ("forward", self._forward),
            ("input gradient", lambda: self._backward([True, False, False])),
            ("weight gradient", lambda: self._backward([False, True, False])),
        ):
            spread = time_work(work, device)
            row[f"{name} us"] = {key: 1e6 * value for key, value in dataclasses.asdict(spread).items()}
            row[f"{name} GB/s"] = moved / spread.median / 1e9
        return row

    def _forward(self) -> torch.Tensor:
        return F.conv2d(self.images, self.weight, stride=self.stride, padding=1, groups=self.groups)

    def _backward(self, wanted: list[bool]) -> object:
        stride, padding, dilation = [self.stride] * 2, [1, 1], [1, 1]
        return torch.ops.aten.convolution_backward(
            self.gradient, self.images, self.weight, None, stride, padding, dilation, False, [0, 0], self.groups, wanted
        )


def merge_groups(weight: torch.Tensor, groups: int, inputs: int) -> tuple[torch.Tensor, int]:
    """Merge groups into ones of `inputs` input channels, a multiple of a group's: same convolution, zeros in between.

    Returns its weight and its number of groups.
    """
    outputs, own, height, width = weight.shape
    merged = inputs // own
    parts = weight.view(groups // merged, merged, outputs // groups, own, height, width)
    dense = weight.new_zeros(groups // merged, merged, outputs // groups, merged, own, height, width)
    for place in range(merged):
        dense[:, place, :, place] = parts[:, place]
    return dense.reshape(outputs, inputs, height, width), groups // merged
