from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.training.batching import BatchSplit, describe_batch, split_batch, warn_of_few_images
from tests.recipes import small_recipe


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


@pytest.mark.parametrize(
    ("global_batch", "world_size", "max_micro_batch", "sync_bn", "seen", "choice"),
    [
        (127, 1, 64, False, "1 image", "train.max_micro_batch=127, or train.global_batch=126 or 128"),
        (254, 2, 64, False, "1 image", "train.max_micro_batch=127, or train.global_batch=252 or 256"),
        (64, 1, 4, False, "4 images", "train.max_micro_batch=8 or 16 or 32 or 64"),
        (64, 16, 64, False, "4 images", "train.global_batch=128, or execution.sync_bn=true"),
        (7, 1, 4, False, "1 image", "a larger global batch"),
        (6, 2, 64, True, "6 images", "train.global_batch=16"),
    ],
)
def test_too_few_images_for_the_batch_norms_are_warned_of_with_numbers_that_do(
    global_batch: int, world_size: int, max_micro_batch: int, sync_bn: bool, seen: str, choice: str
) -> None:
    train = {"global_batch": global_batch, "max_micro_batch": max_micro_batch}
    config = small_recipe(Path("images"), train=train, execution={"sync_bn": sync_bn})
    warning = warn_of_few_images(split_batch(global_batch, world_size, max_micro_batch), config)
    assert warning is not None
    assert warning.startswith(f"warning: the batch norms see {seen} at a time, too few for a mean and a variance: ")
    assert warning.endswith(f"; choose {choice}")


@pytest.mark.parametrize(("world_size", "sync_bn"), [(1, False), (8, False), (16, True)])
def test_eight_images_are_enough(world_size: int, sync_bn: bool) -> None:
    config = small_recipe(Path("images"), train={"global_batch": 64}, execution={"sync_bn": sync_bn})
    assert warn_of_few_images(split_batch(64, world_size, 8), config) is None
