"""`python -m pipeline.bench step`: whole training steps, forward, backward and optimizer.

On a GPU SENet-154 in every way to run it, against timm's legacy_senet154 in every way, and the fraction of the
roofline. With 32 images a step or fewer, CUDA graphs are among the ways. On a CPU the small network, and SENet-154 with
two images, in float32 and not compiled.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.bench.cell import Cell, all_cells
from pipeline.bench.clock import synchronise
from pipeline.bench.measurement import Contestant, Role, Work, measure
from pipeline.bench.peer import import_peer
from pipeline.bench.roofline import Peaks, measure_peaks, training_floor_seconds
from pipeline.bench.rounds import Comparison, Quantity, figure, per_unit
from pipeline.bench.setting import bench_config
from pipeline.bench.training_step import LEARNING_RATE, Step, Task, compile_whole, compile_with_graphs, plain_step
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.networks.layers import layer_table
from pipeline.networks.registry import NETWORKS

_CPU_CELLS = tuple(Cell("float32", channels_last, compile=False) for channels_last in (True, False))
_CPU_BATCHES = {"senet_nano": 64, "senet154": 2}
_STEPS_PER_ROUND = {"senet_nano": 10, "senet154": 1}
"""On a CPU; on a GPU it is ten for either."""
_GRAPHS_BATCH = 32
"""Most images a step with CUDA graphs: each way that uses them keeps the memory of a step for good."""
_MEMORY = "peak GB"

Progress = Callable[[str], None]


def compare_steps(
    models: Sequence[str], batch: int, *, rounds: int, progress: Progress
) -> tuple[dict[str, Any], list[Comparison]]:
    """Return settings, and the comparisons of each network; `batch` is that on a GPU, a CPU has a small one.

    Without `models` it is SENet-154 on a GPU, and both networks on a CPU. Raises UserError if a network does not exist.
    """
    if unknown := [model for model in models if model not in _CPU_BATCHES]:
        raise UserError(f"--models: there is no step of '{unknown[0]}' here (there are: {', '.join(_CPU_BATCHES)})")
    if not torch.cuda.is_available():
        tasks = [_task(model, _CPU_BATCHES[model], torch.device("cpu")) for model in models or _CPU_BATCHES]
        comparisons = [comparison for task in tasks for comparison in _compare_on_cpu(task, rounds, progress)]
        return {"torch threads": torch.get_num_threads()}, comparisons
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda", torch.cuda.current_device())
    peaks = measure_peaks(device)
    settings = {
        "matrix product": f"{peaks.flops_per_second / 1e12:.0f} TFLOP/s",
        "copy": f"{peaks.bytes_per_second / 1e12:.2f} TB/s",
    }
    tasks = [_task(model, batch, device) for model in models or ("senet154",)]
    return settings, [_compare_on_gpu(task, peaks, rounds, progress) for task in tasks]


def _task(model: str, batch: int, device: torch.device) -> Task:
    return Task(model, 1000 if model == "senet154" else 10, NETWORKS[model].image_size_px, batch, device)


def _compare_on_cpu(task: Task, rounds: int, progress: Progress) -> list[Comparison]:
    """Compare in each layout, since the faster one is nobody's merit; all contestants alternate."""
    name, build = _peer_network(task)
    contestants = [
        contestant
        for cell in _CPU_CELLS
        for contestant in (
            _contestant(task, "ours", "ours", cell, our_step(task, cell)),
            _contestant(task, name, "peer", cell, plain_step(task, build(), cell)),
        )
    ]
    taken = measure(contestants, rounds, progress=progress)
    return [
        Comparison(f"{_title(task)}, {cell}", per_unit("image"), (ours, peer))
        for cell, ours, peer in zip(_CPU_CELLS, taken[::2], taken[1::2], strict=True)
    ]


def _compare_on_gpu(task: Task, peaks: Peaks, rounds: int, progress: Progress) -> Comparison:
    """Compare all cells of both. They stay on the GPU together, since weights are small beside one step's maps."""
    name, build = _peer_network(task)
    # All compiled ways coexist here, and each must be compiled for itself.
    dynamo: Any = importlib.import_module("torch._dynamo")
    dynamo.config.automatic_dynamic_shapes = False
    contestants: list[Contestant] = []
    left_out: list[str] = []

    def enter(who: str, role: Role, cell: Cell, build_step: Callable[[], Step]) -> None:
        """Add a way, or name it if it fails, for lack of memory or of compiler support."""
        try:
            step = build_step()
            step()
            synchronise(task.device)
        except (UserError, RuntimeError) as error:
            left_out.append(f"\n{who}, {cell}, is left out: {str(error).partition(chr(10))[0]}")
        else:
            contestants.append(_contestant(task, who, role, cell, step))

    for cell in all_cells(("bfloat16", "float16"), with_graphs=("bfloat16",) if task.batch <= _GRAPHS_BATCH else ()):
        enter("ours", "ours", cell, partial(our_step, task, cell))
        if cell.cuda_graphs and not cell.compile:
            continue  # no option of PyTorch's that a user would pick
        compile_model = compile_with_graphs if cell.cuda_graphs else compile_whole
        enter(name, "peer", cell, lambda cell=cell, how=compile_model: plain_step(task, build(), cell, how))  # type: ignore[misc]
    taken = measure(contestants, rounds, warm_up=2, progress=progress)
    layers = layer_table(task.model, task.num_classes, task.image_size_px)
    floor = training_floor_seconds(layers, task.batch, peaks)
    share = Quantity(
        "% of roofline", lambda done: 100 * floor * done.units / task.batch / done.wall_seconds, more_is_better=True
    )
    speed = dataclasses.replace(per_unit("image")[1], digits=0)
    title = f"{_title(task)}; the roofline is {task.batch / floor:,.0f} images/s{''.join(left_out)}"
    return Comparison(title, (speed, share, figure(_MEMORY)), tuple(taken))


def _peer_network(task: Task) -> tuple[str, Callable[[], nn.Module]]:
    """Return the peer network's publisher, and a function that builds it."""
    if task.model != "senet154":
        return "the same in a plain loop", lambda: create_model(task.model, task.num_classes)
    timm = import_peer("timm", "timm")
    return "timm", lambda: timm.create_model("legacy_senet154", num_classes=task.num_classes)


def our_step(task: Task, cell: Cell, **engine: Any) -> Step:
    """Return a step of our network by an engine of the stages, the native one unless `engine` says otherwise.

    `engine` are sections of a recipe. Raises UserError if CUDA graphs compute something else.
    """
    config = bench_config(
        model=task.model,
        num_classes=task.num_classes,
        batch=task.batch,
        image_size_px=task.image_size_px,
        execution=cell.execution,
        **(engine or {"native": {"cuda_graphs": cell.cuda_graphs}}),
    )
    model = create_model(task.model, task.num_classes)
    trained = create_engine(model, config, Collective(Ranks(), timeout_seconds=60))
    trained.warm_up((task.batch, 3, task.image_size_px, task.image_size_px))
    images, labels = task.images_and_labels(cell)
    criterion = nn.CrossEntropyLoss()

    def step() -> torch.Tensor:
        loss: torch.Tensor = criterion(trained.forward(images), labels)
        trained.backward(loss)
        trained.step(LEARNING_RATE)
        return loss.detach()

    return step


def _contestant(task: Task, who: str, role: Role, cell: Cell, step: Step) -> Contestant:
    on_gpu = task.device.type == "cuda"
    steps = 10 if on_gpu else _STEPS_PER_ROUND[task.model]

    def run() -> Work:
        before = _reset_peak() if on_gpu else 0
        for _ in range(steps):
            step()
        synchronise(task.device)
        if not on_gpu or cell.cuda_graphs:
            return Work(steps * task.batch)  # its memory was taken at the capture: a step has no peak
        return Work(steps * task.batch, {_MEMORY: (torch.cuda.max_memory_allocated() - before) / 1e9})

    return Contestant(f"{who}, {cell}", role, run)


def _reset_peak() -> int:
    """Return the bytes in use: the weights and momentum of all contestants, which are no part of one's peak."""
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _title(task: Task) -> str:
    return f"{task.model}, batch {task.batch}, {task.image_size_px} px, {task.device.type}"
