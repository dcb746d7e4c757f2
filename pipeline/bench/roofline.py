"""The peak rates of a device, and the lower bound of a network's training step on it.

The bound assumes perfect kernels: every convolution fuses the batch norm and ReLU before it into its reads, and the
statistics of the one behind it into its writes; backward reads each map once for both of its gradients; scaling, sum
and ReLU of a block's end are fused into the next convolution. No program here or elsewhere does that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from pipeline.bench.clock import time_work
from pipeline.networks.layers import Layer, Layers

_OPTIMIZER_BYTES = 24
"""Per parameter and step: write the float32 gradient, read it, the weight and the momentum, write the last two."""


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Highest measured rates of a device."""

    flops_per_second: float
    bytes_per_second: float


def training_floor_seconds(layers: Layers, batch: int, peaks: Peaks) -> float:
    """Return the lower bound of one step on `batch` images with 16-bit maps: per layer the slower of arithmetic and
    memory."""
    table = {layer.name: layer for layer in layers}
    total = 0.0
    for layer in layers:
        forward, backward = layer_traffic(layer, table)
        for flops, moved in ((2 * layer.macs, forward), (4 * layer.macs, backward)):
            total += batch * max(flops / peaks.flops_per_second, moved / peaks.bytes_per_second)
    return total + sum(layer.parameters for layer in layers) * _OPTIMIZER_BYTES / peaks.bytes_per_second


def layer_traffic(layer: Layer, table: Mapping[str, Layer]) -> tuple[int, int]:
    """Return the bytes that a layer must move per image, forward and backward, with 16-bit maps."""
    outer = 2 * layer.out_channels * layer.out_size**2
    if layer.kind.startswith("add"):
        # Forward reads the block's two branches and writes their sum; backward reads the incoming gradient of the
        # shortcut and the last convolution's output.
        return 3 * outer, 2 * outer
    if layer.kind != "conv" or layer.out_size == 1:
        return 0, 0
    source = table.get(layer.inputs[0])
    in_size = layer.out_size * (layer.stride or 1) if source is None else source.out_size
    inner = 2 * layer.in_channels * in_size**2
    # The first convolution of a block reads the output of the block before it.
    above = table.get(source.inputs[0]) if source is not None and source.kind == "relu" else None
    is_fused = above is not None and above.kind.startswith("add") and layer.kernel == 1
    return outer + (0 if is_fused else inner), 2 * outer + 2 * inner


def measure_peaks(device: torch.device, size: int = 8192, num_bytes: int = 1 << 29) -> Peaks:
    """Measure a bfloat16 product of matrices of side `size`, and a copy of `num_bytes`.

    Large ones show practical rates, below those of the data sheet.
    """
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    right = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    flops = 2 * size**3 / time_work(lambda: torch.mm(left, right), device).median
    source = torch.empty(num_bytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Peaks(flops, 2 * num_bytes / time_work(lambda: target.copy_(source), device).median)
