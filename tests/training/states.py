"""States of a training that never was."""

from __future__ import annotations

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.training.state import TrainingState


def small_state(step: int) -> TrainingState:
    """Tensors drawn from the step, one of them channels last, and values of every kind."""
    torch.manual_seed(step)
    return TrainingState(
        global_step=step,
        model={
            "layer.weight": torch.randn(20, 30),
            "layer.count": torch.tensor(step),
            "conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        },
        optimizer=OptimizerState({"layer.weight": torch.randn(20, 30)}, {"scaler": {"scale": 2.0**16}}),
        loader={"step": step, "index": "ab", "stream_version": 2},
        events={"bytes": 17, "crc": "0123abcd"},
        validations={"latest": {"global_step": step, "top1_error_percent": 12.5}, "best": None, "best_saved": None},
        images={"train": "ab", "val": "cd"},
        num_images=80,
        global_batch=24,
        world={"engine": "native", "world_size": 1},
    )


def assert_same(one: TrainingState, other: TrainingState) -> None:
    """The same plain values, and the same tensors bit for bit."""
    plain = ("global_step", "loader", "events", "validations", "images", "num_images", "global_batch", "world")
    for name in plain:
        assert getattr(one, name) == getattr(other, name), name
    assert one.optimizer.values == other.optimizer.values
    for ours, theirs in ((one.model, other.model), (one.optimizer.tensors, other.optimizer.tensors)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
