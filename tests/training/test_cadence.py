from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.order import StreamOrder
from pipeline.training.cadence import actions_after
from tests.recipes import small_recipe

ORDER = StreamOrder(num_images=50, global_batch=24, seed=0)
"""The epochs end with steps 3, 5, 7, 9, 11 and 13."""


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ({"every_steps": None}, [3, 5, 7, 9, 10]),
        ({"every_steps": None, "every_epochs": 2}, [5, 9, 10]),
        ({"every_steps": 4, "every_epochs": 3}, [4, 7, 8, 10]),
        ({"every_steps": 5}, [3, 5, 7, 9, 10]),
    ],
)
def test_checkpoints_are_due_where_epochs_end_every_so_many_steps_and_last(tmp_path: Path, checkpoint, expected):
    config = small_recipe(tmp_path, checkpoint=checkpoint)
    assert [done for done in range(1, 11) if actions_after(done, config, ORDER, last_step=10).checkpoint] == expected


@pytest.mark.parametrize(("every", "expected"), [(1, [3, 5, 7, 9, 10]), (2, [5, 9, 10]), (9, [10])])
def test_validations_are_due_where_epochs_end_and_last(tmp_path: Path, every, expected):
    config = small_recipe(tmp_path, train={"validate_every_epochs": every})
    assert [done for done in range(1, 11) if actions_after(done, config, ORDER, last_step=10).validation] == expected


def test_a_step_longer_than_an_epoch_ends_one(tmp_path: Path):
    order = StreamOrder(num_images=10, global_batch=24, seed=0)
    config = small_recipe(tmp_path, checkpoint={"every_steps": None})
    assert all(actions_after(done, config, order, last_step=9).checkpoint for done in range(1, 9))
