"""What the stage refuses to go on from; what it computes is in tests/training/test_trainer.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.index import ImageClass, ImageRecord, write_dataset
from pipeline.engines.engine import OptimizerState
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext
from pipeline.tracking.events import EventLog
from pipeline.training.checkpoint import Checkpoint, CheckpointStore
from stages import freeze_bn
from tests.recipes import small_recipe

NUM_IMAGES = 80
"""With a global batch of 24, 6 epochs are 20 steps."""


def write_checkpoint(folder: Path, step: int = 14, **fingerprint: Any) -> Path:
    state = {"loader": {"fingerprint": {"images": NUM_IMAGES, "train.global_batch": 24, **fingerprint}}}
    tensors = {"layer.weight": torch.zeros(2)}
    checkpoint = Checkpoint(step, tensors, OptimizerState(tensors, {}), state)
    return CheckpointStore(folder, keep_last=1, keep_best=False).save(checkpoint, None).path


def run_stage(tmp_path: Path, **section: Any) -> None:
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    records = [ImageRecord(f"{number}.jpg", 0, 1, 9, 9, "0" * 16) for number in range(NUM_IMAGES)]
    classes = [ImageClass(0, "only", "only", None)]
    write_dataset(prepare, "folder", classes, dict.fromkeys(("train", "val"), tmp_path), {"train": records, "val": []})
    inputs = {"prepare": prepare, "train": tmp_path / "train"}
    config = small_recipe(tmp_path, freeze_bn=section)
    freeze_bn.run(StageContext(config, tmp_path, tmp_path, inputs, Ranks(), EventLog(None), StopFlag()))


@pytest.mark.parametrize(
    ("fingerprint", "difference"),
    [
        ({"images": 81}, "images: 81 there, 80 here"),
        ({"train.global_batch": 48}, "train.global_batch: 48 there, 24 here"),
    ],
)
def test_a_checkpoint_whose_steps_are_other_shares_of_an_epoch_is_refused(
    tmp_path: Path, fingerprint: dict[str, int], difference: str
) -> None:
    path = write_checkpoint(tmp_path / "other", **fingerprint)
    with pytest.raises(UserError, match=rf"the checkpoint belongs to another run:\n{difference}$"):
        run_stage(tmp_path, from_checkpoint=str(path))


@pytest.mark.parametrize("step", [20, 21])
def test_a_checkpoint_from_behind_the_last_step_is_refused(tmp_path: Path, step: int) -> None:
    path = write_checkpoint(tmp_path / "other", step)
    message = rf"freeze_bn\.from_checkpoint: the checkpoint stands at step {step} and this recipe ends at step 20"
    with pytest.raises(UserError, match=message):
        run_stage(tmp_path, from_checkpoint=str(path))


def test_another_networks_checkpoint_is_refused_with_the_differing_tensors(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "other", 19)
    with pytest.raises(UserError, match=r"step-00000019: these weights are not this network's\n.*missing: layer0"):
        run_stage(tmp_path, from_checkpoint=str(path))


def test_a_train_stage_without_its_checkpoints_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    shutil.rmtree(write_checkpoint(tmp_path / "train" / "checkpoints"))
    with pytest.raises(UserError, match=r"checkpoints: the finished train stage has no checkpoint left to go on from"):
        run_stage(tmp_path)
