"""`python -m pipeline.bench cifar`: small images that live in memory, from the array to the optimizer's step.

The first table is the input alone: crops, mirroring, normalisation. The second has a small network behind it. The peers
are a plain loop, which crops bytes on the device, in each of its settings, and torchvision's usual transforms in a
DataLoader. The images are noise: nothing depends on what they show.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.bench.cell import Cell, all_cells
from pipeline.bench.cifar_inputs import Batches, cifar_config, noise, our_batches, plain_batches, torchvision_batches
from pipeline.bench.clock import synchronise
from pipeline.bench.measurement import Contestant, Role, Work, measure
from pipeline.bench.rounds import Comparison, per_unit
from pipeline.bench.training_step import LEARNING_RATE, compile_whole
from pipeline.data.cifar import SIDE_PX
from pipeline.data.index import ImageIndex
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model

_STEPS_ALONE, _STEPS_TRAINED = 100, {"cpu": 10, "cuda": 100}


@dataclasses.dataclass(frozen=True)
class _Task:
    model: str
    batch: int
    workers: int
    device: torch.device
    index: ImageIndex

    @property
    def steps(self) -> int:
        """Of a round of training."""
        return _STEPS_TRAINED[self.device.type]


def compare_cifar(
    model: str | None, *, batch: int, workers: int, rounds: int, progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[Comparison]]:
    """Return settings, and the comparisons of the input alone and of training; `workers` are the DataLoader's.

    Without `model` it is a small network on a CPU and ResNet-110 on a GPU.
    """
    on_gpu = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = on_gpu
    model = model or ("preresnet110" if on_gpu else "preresnet_nano")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    task = _Task(model, batch, workers, device, noise(_STEPS_ALONE * batch))
    left_out: list[str] = []
    alone = measure(list(_inputs(task)), rounds, progress=progress)
    trained = measure(list(_trainings(task, left_out)), rounds, progress=progress)
    settings = {"batch": batch, "workers": workers, "torch threads": torch.get_num_threads()}
    return settings, [
        Comparison("padded crops of 32 px, normalised", per_unit("image"), tuple(alone)),
        Comparison("\n".join((f"training {model}", *left_out)), per_unit("image"), tuple(trained)),
    ]


def _inputs(task: _Task) -> Iterator[Contestant]:
    layouts = {True: "NHWC", False: "NCHW"}
    for is_last, layout in layouts.items():
        yield _reading(task, f"ours, {layout}", "ours", our_batches(task.index, task.batch, task.device, is_last))
    for compiled in (False, True):
        for is_last, layout in layouts.items():
            name = f"plain loop, {'compiled' if compiled else 'eager'} {layout}"
            batches = plain_batches(task.index, task.batch, task.device, is_last, compiled)
            yield _reading(task, name, "peer", batches)
    yield _reading(
        task, "torchvision and DataLoader", "peer", torchvision_batches(task.index, task.batch, task.workers)
    )


def _reading(task: _Task, name: str, role: Role, batches: Batches) -> Contestant:
    def run() -> Work:
        count = sum(len(images) for images, _ in batches(_STEPS_ALONE))
        synchronise(task.device)
        return Work(count)

    return Contestant(name, role, run)


def _trainings(task: _Task, left_out: list[str]) -> Iterator[Contestant]:
    # All compiled ways coexist here, and each must be compiled for itself.
    dynamo: Any = importlib.import_module("torch._dynamo")
    dynamo.config.automatic_dynamic_shapes = False
    on_gpu = task.device.type == "cuda"
    few = task.index.take(np.arange(task.steps * task.batch))  # none that workers would prepare for nothing
    precisions = ("float32", "bfloat16") if on_gpu else ("float32",)
    for cell in all_cells(precisions, with_graphs=precisions if on_gpu else ()):
        ours = our_batches(task.index, task.batch, task.device, cell.channels_last)
        yield from _training(task, f"ours, {cell}", "ours", cell, ours, _our_step, left_out)
        if cell.cuda_graphs:
            continue  # of a plain loop's own making
        plain = plain_batches(task.index, task.batch, task.device, cell.channels_last, cell.compile)
        yield from _training(task, f"plain loop, {cell}", "peer", cell, plain, _plain_step, left_out)
        if not cell.compile and cell.precision == "float32":
            loader = torchvision_batches(few, task.batch, task.workers)
            yield from _training(task, f"DataLoader, {cell}", "peer", cell, loader, _plain_step, left_out)


Step = Callable[[torch.Tensor, torch.Tensor], None]


def _training(
    task: _Task,
    name: str,
    role: Role,
    cell: Cell,
    batches: Batches,
    make: Callable[[_Task, Cell], Step],
    left_out: list[str],
) -> Iterator[Contestant]:
    """Yield a way to train, or say why it fails."""

    def run(steps: int) -> Work:
        count = 0
        for images, labels in batches(steps):
            step(images.to(task.device), labels.to(task.device))
            count += len(images)
        synchronise(task.device)
        return Work(count)

    try:
        step = make(task, cell)
        run(1)
    except (UserError, RuntimeError) as error:
        left_out.append(f"{name}, is left out: {str(error).partition(chr(10))[0]}")
    else:
        yield Contestant(name, role, lambda: run(task.steps))


def _our_step(task: _Task, cell: Cell) -> Step:
    engine = create_engine(
        create_model(task.model, 10),
        cifar_config(task.model, task.batch, cell),
        Collective(Ranks(), timeout_seconds=60),
    )
    engine.warm_up((task.batch, 3, SIDE_PX, SIDE_PX))

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        engine.backward(nn.functional.cross_entropy(engine.forward(images), labels))
        engine.step(LEARNING_RATE)

    return step


def _plain_step(task: _Task, cell: Cell) -> Step:
    model = create_model(task.model, 10)
    layout = torch.channels_last if cell.channels_last else torch.contiguous_format
    model = model.to(task.device, memory_format=layout).train()  # type: ignore[call-overload]
    forward = compile_whole(model) if cell.compile else model
    fused = True if task.device.type == "cuda" else None
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4, fused=fused)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(task.device.type, getattr(torch, cell.precision), enabled=cell.precision != "float32"):
            loss = nn.functional.cross_entropy(forward(images.contiguous(memory_format=layout)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
