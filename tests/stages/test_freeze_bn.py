"""What the stage refuses to go on from; what it computes is in tests/training/test_trainer.py."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.index import ImageClass, ImageIndex, make_index
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext
from pipeline.running.stage import Part
from pipeline.store.seal import SEAL
from pipeline.tracking.events import EventLog
from pipeline.training.checkpoint import CheckpointStore
from stages import freeze_bn
from tests.recipes import small_recipe
from tests.training.states import small_state

NUM_IMAGES = 80
"""With a global batch of 24, 6 epochs are 20 steps."""


def write_checkpoint(folder: Path, step: int = 14, **facts: Any) -> Path:
    state = dataclasses.replace(small_state(step), **{"num_images": NUM_IMAGES, "global_batch": 24, **facts})
    return CheckpointStore(folder, keep_last=1, keep_best=False).save(state, None).path


def make_split(split: str) -> ImageIndex:
    names = [f"only/{split}{number}.jpg" for number in range(NUM_IMAGES)]
    ones = np.ones(NUM_IMAGES, dtype=np.int64)
    classes = [ImageClass(label, f"{label}", f"{label}", None) for label in range(4)]
    digests = np.zeros((NUM_IMAGES, 32), dtype=np.uint8)
    return make_index(split, "folder", classes, names, 0 * ones, ones, 9 * ones, 9 * ones, digests, 0 * ones)


INDEXES = {split: make_split(split) for split in ("train", "val")}
DIGESTS = {split: index.digest for split, index in INDEXES.items()}


class ContextOfIndexes(StageContext):
    """A context whose images need not exist: a stage that refuses to start reads none."""

    def images(self, split: str) -> ImageIndex:
        return INDEXES[split]


def run_stage(folder: Path, **section: Any) -> None:
    part = Part("freeze_bn", None, "key", 1, folder, {}, {})
    context = ContextOfIndexes(
        config=small_recipe(folder, freeze_bn=section),
        run=folder,
        part=part,
        inputs={"train": folder / "train"},
        seals={},
        siblings={part.name: part},
        ranks=Ranks(),
        events=EventLog(None),
        stop=StopFlag(),
    )
    freeze_bn.run(context)


@pytest.mark.parametrize(
    ("facts", "difference"),
    [
        ({"num_images": 81}, "images: 81 there, 80 here"),
        ({"global_batch": 48}, "train.global_batch: 48 there, 24 here"),
    ],
)
def test_a_checkpoint_whose_steps_are_other_shares_of_an_epoch_is_refused(
    tmp_path: Path, facts: dict[str, int], difference: str
) -> None:
    path = write_checkpoint(tmp_path / "other", **facts)
    with pytest.raises(UserError, match=rf"the checkpoint belongs to another run:\n{difference}$"):
        run_stage(tmp_path, from_checkpoint=str(path))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path, split: str) -> None:
    path = write_checkpoint(tmp_path / "other", images={**DIGESTS, split: "another"})
    message = rf"^{path}: made from other images \(those of {split} have changed\); put the old ones back"
    with pytest.raises(UserError, match=message):
        run_stage(tmp_path, from_checkpoint=str(path))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", SEAL])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = write_checkpoint(tmp_path / "other", images=DIGESTS)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    (path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^not a whole checkpoint: {path / name}: "):
        run_stage(tmp_path, from_checkpoint=str(path))


@pytest.mark.parametrize("step", [20, 21])
def test_a_checkpoint_from_behind_the_last_step_is_refused(tmp_path: Path, step: int) -> None:
    path = write_checkpoint(tmp_path / "other", step)
    message = rf"freeze_bn\.from_checkpoint: the checkpoint stands at step {step} and this recipe ends at step 20"
    with pytest.raises(UserError, match=message):
        run_stage(tmp_path, from_checkpoint=str(path))


def test_another_networks_checkpoint_is_refused_with_the_differing_tensors(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "other", 19, images=DIGESTS)
    with pytest.raises(UserError, match=r"step-00000019: these weights are not this network's\n.*missing: layer0"):
        run_stage(tmp_path, from_checkpoint=str(path))


def test_a_train_stage_without_its_checkpoints_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    shutil.rmtree(write_checkpoint(tmp_path / "train" / "checkpoints"))
    with pytest.raises(UserError, match=r"checkpoints: the finished train stage has no checkpoint left to go on from"):
        run_stage(tmp_path)
