"""The rates of the device, and of the way to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.bench.clock import time_work
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.roofline import measure_peaks, training_floor_seconds
from pipeline.networks.layers import layer_table


def measure_rates(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the peaks, the lower bound that they set to a training step, and the rates of transfers."""
    device = scope.torch_device
    peaks = measure_peaks(device, scope.matrix, scope.copied_bytes)
    yield {"rate": "matrix product, bfloat16", "TFLOP/s": peaks.flops_per_second / 1e12}
    yield {"rate": "copy on the device", "GB/s": peaks.bytes_per_second / 1e9}
    layers = layer_table(scope.model, scope.num_classes, scope.image_size_px)
    for batch in (scope.batch, scope.large_batch):
        floor = training_floor_seconds(layers, batch, peaks)
        yield {"rate": "roofline of a training step", "batch": batch, "images/s": batch / floor}
    on_device = torch.empty(scope.copied_bytes // 8, device=device, dtype=torch.uint8)
    for is_pinned in (True, False):
        if is_pinned and device.type != "cuda":
            continue
        on_host = torch.empty(on_device.shape, dtype=torch.uint8, pin_memory=is_pinned)
        for way, target, source in (("to the device", on_device, on_host), ("from the device", on_host, on_device)):
            seconds = time_work(lambda pair=(target, source): pair[0].copy_(pair[1]), device).median  # type: ignore[misc]
            kind = "pinned" if is_pinned else "pageable"
            yield {"rate": f"{way}, {kind} memory", "GB/s": on_device.nbytes / seconds / 1e9}
