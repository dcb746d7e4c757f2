from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.index import ImageIndex, make_index
from pipeline.data.places import Source
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.training.batching import BatchSplit
from pipeline.training.world import describe_change, describe_world
from tests.recipes import small_recipe

COLLECTIVE = Collective(Ranks(), timeout_seconds=10)
SAME = "the images, their order and crops stay exactly the same"


FILES = make_index("train", "folder", (), (), [], [], [], [], np.zeros((0, 32)), [])
IN_MEMORY = dataclasses.replace(FILES, source=Source("memory", Path(), None, lambda: np.zeros(0, np.uint8)))


def described(split: BatchSplit, train: ImageIndex = FILES, **sections: Any) -> dict[str, Any]:
    return describe_world(small_recipe(Path("unused"), **sections), train, COLLECTIVE, split)


def test_the_same_world_has_nothing_to_tell() -> None:
    split = BatchSplit(2, 12, 6, 2)
    assert describe_change(described(split), described(split)) is None


def test_another_engine_is_told_in_one_line() -> None:
    split = BatchSplit(2, 12, 6, 2)
    other = described(split, engine="deepspeed", deepspeed={"zero_stage": 2})
    assert describe_change(described(split), other) == (
        f"going on with engine native -> deepspeed (zero_stage 2): {SAME}, the last bits of the weights need not"
    )


def test_another_world_size_is_said_to_draw_another_dropout() -> None:
    told = describe_change(described(BatchSplit(4, 6, 6, 1)), described(BatchSplit(2, 12, 6, 2)))
    assert told == f"going on with world_size 4 -> 2: {SAME}, dropout and pixel jitter are drawn anew"


def test_batch_norms_that_will_see_other_batches_are_told_and_not_refused() -> None:
    told = describe_change(described(BatchSplit(4, 6, 6, 1)), described(BatchSplit(8, 3, 3, 1)))
    assert told == (
        f"going on with world_size 4 -> 8, micro_batch 6 -> 3, bn_batch 6 -> 3: {SAME}, "
        "dropout and pixel jitter are drawn anew, the batch norms see other batches"
    )


def test_synchronised_batch_norms_see_the_images_of_all_processes() -> None:
    """4 x 6 images are one batch, and so are 1 x 24; 2 x 6 are another."""
    synchronised: dict[str, Any] = {"execution": {"sync_bn": True}}
    before = described(BatchSplit(4, 6, 6, 1), **synchronised)
    same = describe_change(before, described(BatchSplit(1, 24, 24, 1), **synchronised))
    other = describe_change(before, described(BatchSplit(2, 12, 6, 2), **synchronised))
    assert same is not None
    assert "world_size 4 -> 1" in same
    assert "the batch norms" not in same
    assert other is not None
    assert other.endswith("the batch norms see other batches")


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        ({"decoder": "threads", "decode": "cpu"}, r"decoder dali [\d.]+ -> torchvision [\w.+]+"),
        ({"backend": "reference"}, r"decoder dali [\d.]+ -> torchvision [\w.+]+"),
        pytest.param(
            {"decode": "cpu"},
            "decode gpu -> cpu",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
    ],
)
def test_another_decoder_is_told(loader: dict[str, Any], told: str) -> None:
    split = BatchSplit(1, 24, 24, 1)
    change = describe_change(described(split), described(split, loader=loader))
    assert change is not None
    assert re.match(f"going on with {told}: {SAME}, the last bits", change), change


def test_images_in_memory_have_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    split = BatchSplit(1, 24, 24, 1)
    before = described(split)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    now = described(split, IN_MEMORY)
    assert before.keys() - now.keys() == {"decoder", "decode"}
    assert describe_change(before, now) is None, "a checkpoint of before names the decoder"


def test_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    split = BatchSplit(1, 24, 24, 1)
    before = described(split)
    monkeypatch.setattr(torch, "__version__", "99.0")
    change = describe_change(before, described(split))
    assert change is not None
    assert change.startswith(f"going on with torch {before['torch']} -> 99.0: ")


def test_what_was_not_recorded_is_told_as_unknown() -> None:
    split = BatchSplit(1, 24, 24, 1)
    before = described(split)
    del before["decode"]
    change = describe_change(before, described(split))
    assert change is not None
    assert change.startswith("going on with decode unknown -> ")
