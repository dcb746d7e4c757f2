"""The network's grouped convolutions: both layouts and all three directions."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.bench.clock import figures_or_error, time_work
from pipeline.bench.gpu.scope import Scope
from pipeline.networks.layers import Layer, layer_table

_STAGES = 2
_LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def measure_convolutions(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield a row for each layout of the grouped convolutions of the two longest stages: microseconds of forward,
    gradient of the input and gradient of the weights."""
    table = layer_table(scope.model, scope.num_classes, scope.image_size_px)
    counts = collections.Counter(_shape(layer) for layer in table if (layer.groups or 1) > 1 and layer.stride == 1)
    for shape, count in counts.most_common(_STAGES):
        layer = next(layer for layer in table if (layer.groups or 1) > 1 and _shape(layer) == shape)
        for layout, memory_format in _LAYOUTS.items():
            yield {
                "shape": "x".join(map(str, shape)),
                "layers": count,
                "batch": scope.large_batch,
                "precision": scope.precisions[0],
                "layout": layout,
                **figures_or_error(
                    lambda layer=layer, memory_format=memory_format: (  # type: ignore[misc]
                        _Convolution.of(layer, scope, memory_format).measure()
                    )
                ),
            }


def _shape(layer: Layer) -> tuple[int, ...]:
    """Return inputs, outputs, groups and side of the output."""
    return (layer.in_channels, layer.out_channels, layer.groups or 1, layer.out_size)


@dataclasses.dataclass(frozen=True)
class _Convolution:
    images: torch.Tensor
    weight: torch.Tensor
    gradient: torch.Tensor
    groups: int

    @classmethod
    def of(cls, layer: Layer, scope: Scope, memory_format: torch.memory_format) -> _Convolution:
        inputs, outputs, groups, size = _shape(layer)
        device, dtype = scope.torch_device, getattr(torch, scope.precisions[0])
        images = torch.randn(scope.large_batch, inputs, size, size, device=device, dtype=dtype)
        weight = torch.randn(outputs, inputs // groups, 3, 3, device=device, dtype=dtype)
        images, weight = (tensor.contiguous(memory_format=memory_format) for tensor in (images, weight))
        return cls(images, weight, torch.randn_like(F.conv2d(images, weight, padding=1, groups=groups)), groups)

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
            seconds = time_work(work, device).median
            row[f"{name} us"] = 1e6 * seconds
            row[f"{name} GB/s"] = moved / seconds / 1e9
        return row

    def _forward(self) -> torch.Tensor:
        return F.conv2d(self.images, self.weight, padding=1, groups=self.groups)

    def _backward(self, wanted: list[bool]) -> object:
        ones = [1, 1]
        return torch.ops.aten.convolution_backward(
            self.gradient, self.images, self.weight, None, ones, ones, ones, False, [0, 0], self.groups, wanted
        )
