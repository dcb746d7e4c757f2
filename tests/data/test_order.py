from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.data.order import StreamOrder


def step_images(order: StreamOrder, step: int) -> tuple[list[int], list[int]]:
    positions, epochs = order.images_at(np.arange(step * order.global_batch, (step + 1) * order.global_batch))
    return positions.tolist(), epochs.tolist()


def stream(order: StreamOrder, steps: int) -> tuple[list[int], list[int]]:
    positions, epochs = zip(*(step_images(order, step) for step in range(steps)), strict=True)
    return np.concatenate(positions).tolist(), np.concatenate(epochs).tolist()


@pytest.mark.parametrize(("num_images", "global_batch"), [(10, 4), (7, 3), (5, 8), (3, 8), (6, 6), (1, 4), (1000, 96)])
def test_every_epoch_holds_each_image_once(num_images: int, global_batch: int) -> None:
    order = StreamOrder(num_images, global_batch, seed=3)
    positions, epochs = stream(order, order.steps_for(epochs=4))
    assert epochs == sorted(epochs)
    for epoch in range(4):
        seen = [position for position, of in zip(positions, epochs, strict=True) if of == epoch]
        assert sorted(seen) == list(range(num_images))


def test_order_differs_between_epochs_and_between_seeds() -> None:
    orders = [step_images(StreamOrder(200, 50, seed), step)[0] for seed in (1, 2) for step in (0, 4)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_step_does_not_depend_on_the_steps_asked_for_before() -> None:
    forwards, backwards = StreamOrder(20, 6, seed=5), StreamOrder(20, 6, seed=5)
    steps = range(12)
    expected = {step: step_images(forwards, step)[0] for step in steps}
    assert {step: step_images(backwards, step)[0] for step in reversed(steps)} == expected


def test_the_stream_does_not_depend_on_the_global_batch() -> None:
    assert stream(StreamOrder(20, 6, seed=5), 10) == stream(StreamOrder(20, 4, seed=5), 15)


def test_steps_and_epochs_count_the_images_exactly() -> None:
    order = StreamOrder(num_images=10, global_batch=4, seed=0)
    assert [order.steps_for(epochs) for epochs in (1, 2, 3)] == [3, 5, 8]
    assert order.epoch_of(3) == Fraction(12, 10)
    assert step_images(order, 2)[1] == [0, 0, 1, 1]
