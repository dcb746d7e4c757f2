from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.order import StreamOrder
from pipeline.training.cadence import Cadence
from tests.recipes import small_recipe

ORDER = StreamOrder(num_images=50, global_batch=24, seed=0)
"""The epochs end with steps 3, 5, 7, 9, 11 and 13."""


def cadence(last_step: int = 10, order: StreamOrder = ORDER, **sections: dict[str, Any]) -> Cadence:
    return Cadence(small_recipe(Path("unused"), **sections), order, last_step)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ({"every_steps": None}, [3, 5, 7, 9, 10]),
        ({"every_steps": None, "every_epochs": 2}, [5, 9, 10]),
        ({"every_steps": 4, "every_epochs": 3}, [4, 7, 8, 10]),
        ({"every_steps": 5}, [3, 5, 7, 9, 10]),
    ],
)
def test_checkpoints_are_taken_where_epochs_end_every_so_many_steps_and_last(
    checkpoint: dict[str, int | None], expected: list[int]
) -> None:
    assert [step for step in range(1, 11) if cadence(checkpoint=checkpoint).saves_after(step)] == expected


@pytest.mark.parametrize(("every", "expected"), [(1, [3, 5, 7, 9, 10]), (2, [5, 9, 10]), (9, [10])])
def test_validations_are_made_where_epochs_end_and_last(every: int, expected: list[int]) -> None:
    validating = cadence(train={"validate_every_epochs": every})
    assert [step for step in range(1, 11) if validating.validates_after(step)] == expected


def test_a_step_longer_than_an_epoch_ends_one() -> None:
    saving = cadence(9, StreamOrder(num_images=10, global_batch=24, seed=0), checkpoint={"every_steps": None})
    assert all(saving.saves_after(step) for step in range(1, 9))
