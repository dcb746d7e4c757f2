from __future__ import annotations

import pytest

from pipeline.ground.errors import UserError
from pipeline.training.batching import BatchSplit, describe_batch, split_batch


@pytest.mark.parametrize(
    ("global_batch", "world_size", "max_micro_batch", "expected"),
    [
        (2048, 64, 32, BatchSplit(64, 32, 32, 1)),
        (2048, 8, 128, BatchSplit(8, 256, 128, 2)),
        (2048, 1, 128, BatchSplit(1, 2048, 128, 16)),
        (2048, 1, 100, BatchSplit(1, 2048, 64, 32)),
        (96, 4, 10, BatchSplit(4, 24, 8, 3)),
        (31, 1, 16, BatchSplit(1, 31, 1, 31)),
        (32, 1, 31, BatchSplit(1, 32, 16, 2)),
        (4, 4, 256, BatchSplit(4, 1, 1, 1)),
    ],
)
def test_micro_batch_is_the_largest_equal_share_within_the_limit(
    global_batch: int, world_size: int, max_micro_batch: int, expected: BatchSplit
) -> None:
    split = split_batch(global_batch, world_size, max_micro_batch)
    assert split == expected
    assert split.world_size * split.micro_batch * split.accumulation == split.global_batch == global_batch


def test_global_batch_that_does_not_divide_is_refused_with_numbers_that_fit() -> None:
    message = (
        r"train\.global_batch: 2048 images cannot be shared equally by 6 processes \(2048 / 6 = 341\.333\); "
        r"use 4 or 8 processes, or a global batch of 2046 or 2052"
    )
    with pytest.raises(UserError, match=message):
        split_batch(2048, 6, 32)


def test_a_prime_batch_fits_one_process_or_as_many_as_it_has_images() -> None:
    with pytest.raises(UserError, match=r"use 1 or 7 processes, or a global batch of 6 or 8$"):
        split_batch(7, 2, 32)


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"4 images .* 8 processes .* use 4 processes, or a global batch of 8$"):
        split_batch(4, 8, 32)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (BatchSplit(64, 32, 32, 1), "global batch 2048 = 64 processes x 32 images x 1 accumulation step; lr 1.0"),
        (BatchSplit(1, 4, 1, 4), "global batch 4 = 1 process x 1 image x 4 accumulation steps; lr 1.0"),
    ],
)
def test_description_spells_the_expansion_out(split: BatchSplit, expected: str) -> None:
    assert describe_batch(split, 1.0) == f"{expected} is for the global batch"
