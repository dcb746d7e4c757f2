from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.training.batching import BatchSplit
from pipeline.training.world import compare_processes, describe_processes
from tests.recipes import small_recipe

COLLECTIVE = Collective(Ranks(), timeout_seconds=10)


def described(split: BatchSplit, **sections: object) -> dict[str, object]:
    config = small_recipe(Path("unused"), **sections)  # type: ignore[arg-type]
    return describe_processes(config, COLLECTIVE, split)


def test_same_processes_have_nothing_to_tell() -> None:
    split = BatchSplit(2, 12, 6, 2)
    assert compare_processes(described(split), described(split)) is None


def test_another_engine_is_told_in_one_line() -> None:
    split = BatchSplit(2, 12, 6, 2)
    other = described(split, engine="deepspeed", deepspeed={"zero_stage": 2})
    assert compare_processes(described(split), other) == (
        "going on with engine native -> deepspeed (zero_stage 2): the images, their order and crops stay exactly "
        "the same, the last bits of the weights need not"
    )


def test_other_processes_are_said_to_draw_another_dropout() -> None:
    told = compare_processes(described(BatchSplit(4, 6, 6, 1)), described(BatchSplit(2, 12, 6, 2)))
    assert told == (
        "going on with world_size 4 -> 2: the images, their order and crops stay exactly the same, "
        "dropout and pixel jitter are drawn anew"
    )


def test_batch_norms_that_would_see_other_batches_are_refused() -> None:
    before, now = described(BatchSplit(4, 6, 6, 1)), described(BatchSplit(8, 3, 3, 1))
    message = r"trained with 6 images per forward pass \(processes: 4\), now it would be 3 \(processes: 8\)"
    with pytest.raises(UserError, match=message):
        compare_processes(before, now)


def test_synchronised_batch_norms_see_the_images_of_all_processes() -> None:
    """4 x 6 images are one batch, and so are 1 x 24; 2 x 6 are another."""
    synchronised = {"execution": {"sync_bn": True}}
    before = described(BatchSplit(4, 6, 6, 1), **synchronised)
    told = compare_processes(before, described(BatchSplit(1, 24, 24, 1), **synchronised))
    assert told is not None
    assert "world_size 4 -> 1" in told
    with pytest.raises(UserError, match="trained with 24 images per forward pass"):
        compare_processes(before, described(BatchSplit(2, 12, 6, 2), **synchronised))
