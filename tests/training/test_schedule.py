from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.training import ScheduleConfig
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.training.schedule import LearningRate, Plateau

IMAGENET = StreamOrder(num_images=1_281_167, global_batch=2048, seed=0)
SMALL = StreamOrder(num_images=100, global_batch=10, seed=0)


def test_the_papers_rate_drops_tenfold_after_each_named_epoch() -> None:
    rate = LearningRate(ScheduleConfig(kind="step", drop_epochs=(30.0, 60.0, 90.0)), 1.0, IMAGENET, 100)
    for epoch, expected in ((30, 1.0), (60, 0.1), (90, 0.01)):
        boundary = IMAGENET.steps_for(epoch)
        assert rate.at(boundary - 1) == pytest.approx(expected)
        assert rate.at(boundary) == pytest.approx(expected / 10)


def test_warm_up_rises_by_equal_steps_and_ends_at_the_full_rate() -> None:
    rate = LearningRate(ScheduleConfig(kind="step", warmup_epochs=2.0), 1.0, SMALL, 10)
    assert [rate.at(step) for step in range(20)] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rate.at(20) == 1.0


def test_the_schedule_of_resnet_110_is_its_papers_to_the_step() -> None:
    """A rate of 0.01 for 400 iterations, then 0.1, divided by 10 after 32,000 and 48,000 iterations."""
    cifar = StreamOrder(num_images=50_000, global_batch=128, seed=0)
    in_steps = ScheduleConfig(drop_steps=(32_000, 48_000), warmup_steps=400, warmup_lr=0.01)
    in_epochs = ScheduleConfig(drop_epochs=(81.92, 122.88), warmup_epochs=1.024, warmup_lr=0.01)
    expected = {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 64_000: 0.001}
    for schedule in (in_steps, in_epochs):
        rate = LearningRate(schedule, 0.1, cifar, 164)
        assert {step: rate.at(step) for step in expected} == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_in_steps_is_the_one_of_as_many_epochs() -> None:
    for kind in ("step", "cosine"):
        epochs, steps = (
            LearningRate(ScheduleConfig(kind=kind, **length), 1.0, SMALL, 10)
            for length in ({"warmup_epochs": 2.0}, {"warmup_steps": 20})
        )
        assert [epochs.at(step) for step in range(100)] == [steps.at(step) for step in range(100)]


def test_a_warm_up_in_steps_ends_after_exactly_so_many() -> None:
    for steps in (1, 390, 391, 626, 1000):
        rate = LearningRate(ScheduleConfig(warmup_steps=steps), 1.0, IMAGENET, 100)
        assert [rate.is_warming_up(step) for step in (steps - 1, steps, steps + 1)] == [True, False, False]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            {"warmup_steps": 100},
            "schedule.warmup_steps: must be less than the 100 steps of train.epochs = 10 (given 100)",
        ),
        (
            {"drop_steps": (50, 100, 200)},
            "schedule.drop_steps: must come before the end of the 100 steps of train.epochs = 10 (given [100, 200]); "
            "write schedule.drop_steps=[50], or when else the rate is to drop",
        ),
    ],
)
def test_lengths_in_steps_beyond_the_end_of_training_are_refused(lengths: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        LearningRate(ScheduleConfig(**lengths), 1.0, SMALL, 10)
    assert str(raised.value) == message
    LearningRate(ScheduleConfig(warmup_steps=99, drop_steps=(99,)), 1.0, SMALL, 10)


def test_the_cosine_is_shake_shakes_and_pytorchs_step_by_step() -> None:
    rate = LearningRate(ScheduleConfig(kind="cosine"), 0.2, SMALL, 18)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=180)
    for step in range(180):
        assert rate.at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_cosine_falls_from_the_full_rate_to_almost_nothing() -> None:
    rate = LearningRate(ScheduleConfig(kind="cosine", warmup_epochs=1.0), 0.5, SMALL, 11)
    assert rate.at(10) == 0.5
    assert rate.at(60) == pytest.approx(0.25)
    rates = [rate.at(step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


def test_the_rate_is_for_the_global_batch_and_follows_epochs_whatever_their_steps() -> None:
    schedule = ScheduleConfig(kind="step", drop_epochs=(3.0,))
    for batch in (7, 10, 33):
        order = StreamOrder(num_images=100, global_batch=batch, seed=0)
        rate = LearningRate(schedule, 1.0, order, 5)
        boundary = order.steps_for(3)
        assert (rate.at(boundary - 1), rate.at(boundary)) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize(("patience", "threshold", "smallest"), [(0, 0.0, 0.0), (2, 1e-4, 0.0), (3, 0.05, 0.02)])
def test_a_plateau_decides_as_pytorchs_reduce_lr_on_plateau(patience: int, threshold: float, smallest: float) -> None:
    schedule = ScheduleConfig(kind="plateau", patience=patience, threshold=threshold, smallest_lr=smallest)
    rate = LearningRate(schedule, 1.0, SMALL, 200)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=patience, threshold=threshold, min_lr=smallest, eps=0.0
    )
    plateau, seen = Plateau(), set()
    losses = 3.0 * 0.97 ** np.minimum(np.arange(120), 40 + np.arange(120) % 7) + np.random.default_rng(0).random(120)
    for loss in [*losses.tolist(), math.nan, math.nan]:
        theirs.step(loss)
        plateau.add(loss, schedule)
        seen.add(ours := rate.at(50, plateau.drops))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len(seen) > 2
    assert not plateau.has_ended


def test_a_plateau_ends_training_where_it_would_drop_once_too_often() -> None:
    schedule = ScheduleConfig(kind="plateau", patience=1, max_drops=2)
    plateau, told = Plateau(), []
    for _ in range(7):
        plateau.add(1.0, schedule)
        told.append((plateau.drops, plateau.has_ended))
    assert told == [(0, False), (0, False), (1, False), (1, False), (2, False), (2, False), (2, True)]
