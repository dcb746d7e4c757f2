"""Training with CUDA graphs against training without, on a real GPU. Skipped without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipeline.engines.cuda_graphs import split
from pipeline.evaluation.inference import evaluating
from pipeline.training.throughput import Throughput
from pipeline.training.trainer import Trainer
from tests.training.small_trainer import small_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]

STEPS = 10
MICRO_BATCH, ACCUMULATION = 6, 4  # of the small recipe
ALLOWED = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}
"""Of the way that training has come. Nothing at all is expected where every kernel of the network adds in one order."""


@pytest.fixture(autouse=True)
def one_order_of_sums() -> Iterator[None]:
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def warmed_up(
    folder: Path, has_graphs: bool, *, in_group: bool = False, start: Path | None = None, **sections: Any
) -> Trainer:
    """A trainer at its first step, as the stage `train` would have it; `in_group` below DistributedDataParallel."""
    optim = {"lr": 0.002}  # so small that rounding does not grow into differences
    trainer = small_trainer(folder, STEPS, start, optim=optim, native={"cuda_graphs": has_graphs}, **sections)
    engine: Any = trainer._engine
    if in_group:
        trainer._collective.join_group()
        engine._is_distributed = True
    engine.warm_up((MICRO_BATCH, 3, 32, 32))
    return trainer


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().double().cpu() for name, tensor in model.state_dict().items()}


def distance(start: dict[str, torch.Tensor], one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Between two sets of weights and statistics, as a share of the way that they have come from `start`."""
    between = sum(float((one[name] - other[name]).square().sum()) for name in start)
    come = sum(float((one[name] - start[name]).square().sum()) for name in start)
    return (between / come) ** 0.5


@pytest.mark.parametrize("in_group", [False, True], ids=["alone", "ddp"])
@pytest.mark.parametrize("compile_", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compile"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_ten_steps_with_graphs_are_those_without(
    precision: str, channels_last: bool, compile_: bool, in_group: bool, tmp_path: Path
) -> None:
    """With dropout, jitter, accumulation, and validation and a checkpoint in between."""
    execution = {"precision": precision, "channels_last": channels_last, "compile": compile_}
    ends = []
    for has_graphs in (False, True):
        trainer = warmed_up(tmp_path / str(has_graphs), has_graphs, in_group=in_group, execution=execution)
        start = weights(trainer._engine.model)
        try:
            trainer.run()
        finally:
            trainer._collective.close()
        ends.append(weights(trainer._engine.model))
    assert distance(start, *ends) <= ALLOWED[precision]


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = warmed_up(tmp_path / "whole", True, checkpoint={"every_steps": 4})
    start = weights(whole._engine.model)
    whole.run()
    saved = tmp_path / "whole" / "checkpoints" / "step-00000004"
    resumed = warmed_up(tmp_path / "resumed", True, start=saved, checkpoint={"every_steps": 4})
    resumed.run()
    assert distance(start, weights(whole._engine.model), weights(resumed._engine.model)) <= ALLOWED["float32"]


def test_the_network_is_evaluated_without_graphs(tmp_path: Path) -> None:
    engine = warmed_up(tmp_path, True)._engine
    with evaluating(engine.model), torch.no_grad():
        assert engine.model(torch.zeros(3, 3, 48, 48, device="cuda")).shape == (3, 4)


def take_steps(trainer: Trainer, batches: Any, count: int) -> None:
    throughput = Throughput(24)
    for _ in range(count):
        trainer._train_step(batches, throughput)
        trainer._global_step += 1


def test_every_pass_of_a_section_is_one_launch_and_no_step_waits_for_the_gpu(tmp_path: Path) -> None:
    trainer = warmed_up(tmp_path, True)
    batches = iter(trainer._loader)
    take_steps(trainer, batches, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_steps(trainer, batches, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        take_steps(trainer, batches, 1)
        torch.cuda.synchronize()
    trainer._loader.close()
    launches = {event.key: event.count for event in profiler.key_averages()}
    assert launches["cudaGraphLaunch"] == 2 * len(split(trainer._engine.model)) * ACCUMULATION
