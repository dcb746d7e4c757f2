"""A network executed from its layer table alone: the rows one after another, with the tensors of a state dict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.networks.layers import IMAGES, Layer

Tensors = Mapping[str, torch.Tensor]


@torch.no_grad()
def execute(layers: Sequence[Layer], tensors: Tensors, images: torch.Tensor, eps: float) -> torch.Tensor:
    """The scores of the last layer, as in evaluation."""
    values = {IMAGES: images}
    for layer in layers:
        own = {name: tensors.get(f"{layer.name}.{name}") for name in ("weight", "bias", "running_mean", "running_var")}
        values[layer.name] = _compute(layer, own, [values[name] for name in layer.inputs], eps)
    return values[layers[-1].name]


_PLAIN: dict[str, Callable[..., torch.Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "global_avg_pool": lambda x: x.mean((2, 3), keepdim=True),
    "global_max_pool": lambda x: x.amax((2, 3), keepdim=True),
    "concat": lambda *maps: torch.cat(maps, 1),
    "add": lambda one, other: one + other,
    "scale": lambda one, other: one * other,
    "shake_mix": lambda one, other: (one + other) / 2,
    "shift": lambda x: F.pad(x[:, :, :-1, :-1], (1, 0, 1, 0)),
}


def _compute(layer: Layer, own: Mapping[str, Any], inputs: list[torch.Tensor], eps: float) -> torch.Tensor:
    x, kind = inputs[0], layer.kind
    if kind in _PLAIN:
        return _PLAIN[kind](*inputs)
    if kind == "conv":
        return F.conv2d(x, own["weight"], own["bias"], layer.stride or 1, layer.padding or 0, groups=layer.groups or 1)
    if kind == "bn":
        return F.batch_norm(x, own["running_mean"], own["running_var"], own["weight"], own["bias"], eps=eps)
    if kind == "fc":
        return F.linear(x.flatten(1), own["weight"], own["bias"])
    if kind.startswith("dropout"):
        return x
    if pool := re.fullmatch(r"(max|ave)_pool_(ceil|floor|exclude_pad)", kind):
        window = (layer.kernel or 1, layer.stride or 1, layer.padding or 0)
        if pool[1] == "max":
            return F.max_pool2d(x, *window, ceil_mode=pool[2] == "ceil")
        return F.avg_pool2d(x, *window, ceil_mode=pool[2] == "ceil", count_include_pad=pool[2] != "exclude_pad")
    if scaled := re.fullmatch(r"add_scaled_(.+)", kind):
        return float(scaled[1]) * x + inputs[1]
    if side := re.fullmatch(r"ave_pool_to_(\d+)", kind):
        return F.adaptive_avg_pool2d(x, int(side[1]))
    assert kind == "channel_shuffle", kind
    count, channels, *size = x.shape
    return x.view(count, 3, channels // 3, *size).transpose(1, 2).reshape(x.shape)
