"""Engines at work on made-up batches: in real processes, without loaders, stages or checkpoint files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.engines import create_engine
from pipeline.engines.cuda_graphs import Capture
from pipeline.engines.engine import OptimizerState
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.ground.seeds import derive_seed
from pipeline.models import create_model
from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.weights import read_weights, save_weights
from pipeline.training.batching import BatchSplit, split_batch
from tests.processes import finish, fork_context, free_port
from tests.recipes import small_recipe

SEED = 11
GLOBAL_BATCH = 16
SIZE = 32
STEPS = 50


@dataclasses.dataclass(frozen=True)
class Job:
    """Some steps under one engine, from the initial weights or from where another job has stopped."""

    name: str
    sections: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the recipe says about engine, execution and micro-batch."""
    start: str | None = None
    """The job in the same folder whose checkpoint this one goes on from."""
    first_step: int = 0
    last_step: int = STEPS
    is_frozen: bool = False
    dropout: float = 0.2
    lr: float = 0.002
    capture: Capture | None = None
    """What captures CUDA graphs where there is no GPU, for a recipe that asks for them."""

    @property
    def config(self) -> Config:
        """The recipe."""
        train = {"global_batch": GLOBAL_BATCH, "max_micro_batch": GLOBAL_BATCH, **self.sections.get("train", {})}
        return small_recipe(Path("unused"), **{**self.sections, "train": train})

    def split(self, world_size: int) -> BatchSplit:
        """How its global batch is divided among them."""
        return split_batch(GLOBAL_BATCH, world_size, self.config.train.max_micro_batch)


def new_model(is_frozen: bool = False, dropout: float = 0.2) -> nn.Module:
    """The seeded network that all jobs begin with; its batch norms have seen nothing yet."""
    model = create_model("senet_nano", 4, dropout=dropout, seed=SEED)
    if is_frozen:
        freeze_batch_norms(model, "statistics_and_affine")
    return model


def learning_rate(lr: float, step: int) -> float:
    """Another one at every step."""
    return lr * (1 - step / 100)


def global_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, brighter for some classes than for others so that there is something to learn."""
    generator = torch.Generator().manual_seed(derive_seed(SEED, "batch", step))
    labels = torch.randint(4, (GLOBAL_BATCH,), generator=generator)
    images = torch.randn(GLOBAL_BATCH, 3, SIZE, SIZE, generator=generator) + 0.5 * labels.view(-1, 1, 1, 1)
    return images, labels


def micro_batches(step: int, rank: int, split: BatchSplit) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One process's part of a global batch."""
    images, labels = global_batch(step)
    for index in range(split.accumulation):
        start = rank * split.local_batch + index * split.micro_batch
        yield images[start : start + split.micro_batch], labels[start : start + split.micro_batch]


@contextlib.contextmanager
def stand_in(capture: Capture | None) -> Iterator[None]:
    """For engines that are made in this context, `capture` is what captures CUDA graphs on any device."""
    with contextlib.ExitStack() as stack:
        if capture is not None:
            stack.enter_context(mock.patch("pipeline.engines.cuda_graphs.graph_capture", return_value=capture))
        yield


def run_jobs(folder: Path, world_size: int, jobs: list[Job]) -> None:
    """Run the jobs one after the other in one group of processes; their results are then in `folder`."""
    port = free_port()
    processes = [
        fork_context().Process(target=_work, args=(folder, jobs, Ranks(rank, rank, world_size), port))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    assert finish(processes, timeout=280) == [0] * world_size


@dataclasses.dataclass(frozen=True)
class Result:
    """What a job has come to on one rank: all that a checkpoint would hold of it."""

    model: dict[str, torch.Tensor]
    optimizer: OptimizerState


def result_of(folder: Path, name: str, rank: int = 0) -> Result:
    """What the job `name` left."""
    path = folder / f"{name}-{rank}"
    values = json.loads((path / "values.json").read_text())
    state = OptimizerState(read_weights(path / "momentum.safetensors"), values)
    return Result(read_weights(path / "model.safetensors"), state)


class JobResults:
    """What jobs have come to. A few of them share a group of processes, which runs when a test first asks for one."""

    def __init__(self, folder: Path, groups: Sequence[tuple[int, Sequence[Job]]]) -> None:
        """`groups` are world sizes and jobs."""
        self._folder = folder
        self._group_of = {job.name: group for group in groups for job in group[1]}

    def of(self, name: str, rank: int = 0) -> Result:
        """Of the job `name`, after running its group, and before it those that it starts from, unless they have run."""
        self._run(name)
        return result_of(self._folder, name, rank)

    def _run(self, name: str) -> None:
        if not (self._folder / f"{name}-0").exists():
            world_size, jobs = self._group_of[name]
            for start in {job.start for job in jobs} - {None}:
                self._run(str(start))
            run_jobs(self._folder, world_size, list(jobs))


def _work(folder: Path, jobs: list[Job], ranks: Ranks, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    collective = Collective(ranks, timeout_seconds=240)
    for job in jobs:
        _run(folder, job, collective)
    collective.barrier()
    collective.close()


def _run(folder: Path, job: Job, collective: Collective) -> None:
    rank, split = collective.ranks.rank, job.split(collective.ranks.world_size)
    model = new_model(job.is_frozen, job.dropout)
    start = None if job.start is None else result_of(folder, job.start)
    if start is not None:
        model.load_state_dict(start.model)
    with stand_in(job.capture):
        engine = create_engine(model, job.config, collective)
    engine.warm_up((split.micro_batch, 3, SIZE, SIZE))
    if start is not None:
        engine.load_state_dict(start.optimizer)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(job.first_step, job.last_step):
        torch.manual_seed(derive_seed(SEED, "step", step, rank))
        for index, (images, labels) in enumerate(micro_batches(step, rank, split)):
            with engine.accumulating(last=index == split.accumulation - 1):
                engine.backward(criterion(engine.forward(images), labels) / split.accumulation)
        engine.step(learning_rate(job.lr, step))
    optimizer = engine.state_dict()
    path = folder / f"{job.name}-{rank}"
    path.mkdir()
    save_weights(path / "model.safetensors", engine.model.state_dict(), {})
    save_weights(path / "momentum.safetensors", optimizer.tensors, {})
    (path / "values.json").write_text(json.dumps(dict(optimizer.values)))
