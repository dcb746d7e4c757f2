from __future__ import annotations

import pytest

from pipeline.config.training import ScheduleConfig
from pipeline.data.order import StreamOrder
from pipeline.training.schedule import LearningRate

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
