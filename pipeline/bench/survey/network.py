"""Whole training steps: every cell and batch, with a CUDA graph, and the kernels of the best cell."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipeline.bench.cell import Cell, all_cells
from pipeline.bench.peer import import_peer
from pipeline.bench.survey.clock import Deadline, figures_or_error, time_work
from pipeline.bench.survey.scope import Scope
from pipeline.bench.training_step import Step, Task, compile_whole, forget_compiled, plain_step
from pipeline.engines.compilation import compile_blocks
from pipeline.models import create_model
from pipeline.models.network import Network

_COMPILATION_SECONDS = 120.0
"""Assumed time of a compilation before the first one is measured."""
_PROFILED_STEPS = 3
_PROFILED_KERNELS = 40

Networks = Mapping[str, nn.Module]


def both_networks(scope: Scope) -> Networks:
    """Return our network, and timm's if the scope is SENet-154 itself, on the device. Built once, since it takes
    seconds."""
    networks: dict[str, nn.Module] = {"ours": create_model(scope.model, scope.num_classes)}
    if scope.model == "senet154":
        timm = import_peer("timm", "timm")
        networks["timm"] = timm.create_model("legacy_senet154", num_classes=scope.num_classes)
    return {name: network.to(scope.device) for name, network in networks.items()}


def survey_eager(scope: Scope, networks: Networks, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Measure every eager cell at every batch."""
    cells = [cell for cell in all_cells(scope.precisions) if not cell.compile]
    for batch in scope.batches:
        for name, network in networks.items():
            for cell in cells:
                if deadline.seconds_left <= 0:
                    return
                yield _measure(scope, name, network, cell, batch)


def survey_compiled(scope: Scope, networks: Networks, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Measure compiled cells while there is time for another: the most informative batch first."""
    needed = _COMPILATION_SECONDS
    for batch in scope.batches:
        for cell in all_cells(scope.precisions):
            for name, network in networks.items():
                if not cell.compile:
                    continue
                if deadline.seconds_left < needed:
                    return
                started = time.monotonic()
                yield _measure(scope, name, network, cell, batch)
                needed = time.monotonic() - started


def survey_graph(scope: Scope, networks: Networks, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Measure the smallest batch as a CUDA graph, in which the host does not launch two thousand kernels a step."""
    cell = Cell(scope.precisions[0], channels_last=False, compile=False)
    if deadline.seconds_left > 0:
        yield _measure(scope, "ours", networks["ours"], cell, min(scope.batches), as_graph=True)


def survey_kernels(scope: Scope, networks: Networks, best: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the kernels of an eager cell, by their time; `best` is one of the rows of `survey_eager`."""
    cell, batch = Cell(**best["execution"]), best["batch"]
    step = _step(scope, networks[best["network"]], cell, batch)
    step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if scope.device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(_PROFILED_STEPS):
            step()
        if scope.device.type == "cuda":
            torch.cuda.synchronize()
    on_device = scope.device.type == "cuda"
    kernels = sorted(
        profiler.key_averages(), key=lambda kernel: -(_device_time(kernel) if on_device else kernel.self_cpu_time_total)
    )
    for kernel in kernels[:_PROFILED_KERNELS]:
        taken = _device_time(kernel) if on_device else kernel.self_cpu_time_total
        yield {"kernel": kernel.key, "calls": kernel.count / _PROFILED_STEPS, "us per step": taken / _PROFILED_STEPS}


def _device_time(kernel: Any) -> float:
    return float(kernel.self_device_time_total)


def _measure(
    scope: Scope, name: str, network: nn.Module, cell: Cell, batch: int, *, as_graph: bool = False
) -> dict[str, Any]:
    """Return a row: the case and its figures or error."""
    return {
        "network": name,
        "batch": batch,
        "way": f"{cell}, CUDA graph" if as_graph else str(cell),
        "execution": cell.execution,
        **figures_or_error(lambda: _figures(scope, network, cell, batch, as_graph)),
    }


def _figures(scope: Scope, network: nn.Module, cell: Cell, batch: int, as_graph: bool) -> dict[str, Any]:
    """Return speed, memory beside the weights, and the seconds until the second step was done."""
    on_gpu = scope.device.type == "cuda"
    before = _empty_memory() if on_gpu else 0
    if cell.compile:
        forget_compiled()
    started = time.monotonic()
    step = _step(scope, network, cell, batch)
    step()
    float(step())
    begun = time.monotonic() - started
    spread = time_work(_captured(step) if as_graph else step, scope.device, warm_up=1)
    return {
        "images/s": batch / spread.median,
        "ms per step": {key: 1e3 * value for key, value in dataclasses.asdict(spread).items()},
        "seconds to begin": begun,
        "peak GB": (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else None,
    }


def _empty_memory() -> int:
    """Free the memory of the last cell. Returns the bytes that stay in use, which are the networks' weights."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _step(scope: Scope, network: nn.Module, cell: Cell, batch: int) -> Step:
    task = Task(scope.model, scope.num_classes, scope.image_size_px, batch, scope.device)
    # Ours is compiled as in the engine, others whole.
    return plain_step(task, network, cell, compile_blocks if isinstance(network, Network) else compile_whole)


def _captured(step: Step) -> Callable[[], None]:
    """Capture the step as one launch."""
    graph = torch.cuda.CUDAGraph()
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    with torch.cuda.graph(graph):
        step()
    return lambda: graph.replay()
