"""Whole training steps: the recipes', every layout and type, compiled by block, and the kernels of the fastest."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipeline.bench.cell import Cell
from pipeline.bench.clock import figures_or_error, synchronise, time_work
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.training_step import Step, plain_step
from pipeline.engines.compilation import compile_blocks
from pipeline.models import create_model

_PROFILED_STEPS = 3
_PROFILED_KERNELS = 40


def measure_recipe_steps(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the steps of the engine of the stages, in the recipes' batch: eager, then with CUDA graphs, which prove at
    their start that they compute the same."""
    from pipeline.bench.step import our_step

    for has_graphs in (False, True):
        cell = Cell(scope.precisions[0], channels_last=True, compile=False, cuda_graphs=has_graphs)
        task = scope.task(scope.batch)
        yield {"network": "ours, engine", **_measure(scope, cell, scope.batch, partial(our_step, task, cell))}


def measure_layouts(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield a plain step in each layout and type, at both batches; then timm's network in the fastest of them."""
    ours = create_model(scope.model, scope.num_classes).to(scope.torch_device)
    rows = []
    for batch in (scope.batch, scope.large_batch):
        for precision in scope.precisions:
            for channels_last in (False, True):
                cell = Cell(precision, channels_last, compile=False)
                step = partial(plain_step, scope.task(batch), ours, cell)
                rows.append({"network": "ours", **_measure(scope, cell, batch, step)})
                yield rows[-1]
    if scope.model == "senet154" and (best := fastest(rows)) is not None:
        timm = importlib.import_module("timm")
        network = timm.create_model("legacy_senet154", num_classes=scope.num_classes)
        cell, batch = Cell(**best["cell"]), best["batch"]
        yield {"network": "timm", **_measure(scope, cell, batch, partial(plain_step, scope.task(batch), network, cell))}


def fastest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return cell and batch of the step with the most images a second, or None if none was measured."""
    measured = [row for row in rows if "images/s" in row]
    if not measured:
        return None
    best = max(measured, key=lambda row: float(row["images/s"]))
    return {"cell": best["cell"], "batch": best["batch"]}


def measure_compiled_step(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the fastest eager step compiled by block, as the engine does, in the recipes' batch."""
    cell = dataclasses.replace(scope.fastest[0], compile=True)
    network = create_model(scope.model, scope.num_classes)
    compile_model: Callable[[nn.Module], nn.Module] = partial(compile_blocks, backend=scope.compiler)
    step = partial(plain_step, scope.task(scope.batch), network, cell, compile_model)
    yield {"network": "ours", **_measure(scope, cell, scope.batch, step)}


def measure_kernels(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the kernels of the fastest step, the slowest first."""
    cell, batch = scope.fastest
    step = plain_step(scope.task(batch), create_model(scope.model, scope.num_classes), cell)
    step()
    on_gpu = scope.torch_device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(_PROFILED_STEPS):
            step()
        synchronise(scope.torch_device)
    taken = {
        event: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(taken.values())
    for event in sorted(taken, key=lambda event: -taken[event])[:_PROFILED_KERNELS]:
        yield {
            "kernel": event.key,
            "calls a step": event.count / _PROFILED_STEPS,
            "us a step": taken[event] / _PROFILED_STEPS,
            "%": 100 * taken[event] / total,
        }


def _measure(scope: Scope, cell: Cell, batch: int, build: Callable[[], Step]) -> dict[str, Any]:
    """Return a row: the case and its figures or error."""
    case = {"way": str(cell), "batch": batch, "cell": dataclasses.asdict(cell)}
    return {**case, **figures_or_error(lambda: _figures(scope.torch_device, batch, build))}


def _figures(device: torch.device, batch: int, build: Callable[[], Step]) -> dict[str, Any]:
    """Return speed, memory beside the weights, and the seconds until the second step was done."""
    on_gpu = device.type == "cuda"
    before = _empty_memory() if on_gpu else 0
    started = time.monotonic()
    step = build()
    step()
    float(step())
    begun = time.monotonic() - started
    spread = time_work(step, device, warm_up=1)
    return {
        "images/s": batch / spread.median,
        "ms a step": {key: 1e3 * value for key, value in dataclasses.asdict(spread).items()},
        "s to begin": begun,
        "peak GB": (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else None,
    }


def _empty_memory() -> int:
    """Free the memory of the last step. Returns the bytes that stay in use, which are the network's weights."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
