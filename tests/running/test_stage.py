from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.recipes import small_recipe

ALL = {"prepare", "build", "train", "freeze_bn", "evaluate", "fuse", "report"}


def keys(config: Config) -> dict[str, str]:
    return {name: stage.key for name, stage in place_stages(config, Path("run"), STAGES).items()}


def changed(**sections: Any) -> set[str]:
    """Names of the stages whose key the change touches."""
    before, after = keys(small_recipe(Path("/images"))), keys(small_recipe(Path("/images"), **sections))
    return {name for name in before if before[name] != after.get(name)}


@pytest.mark.parametrize(
    "operations",
    [
        {"tracking": {"log_every_steps": 1, "wandb": "offline"}},
        {"checkpoint": {"every_steps": 99, "keep_last": 7}},
        {"loader": {"threads": 9, "prefetch": 5}},
        {"resources": {"processes": 8}},
    ],
)
def test_operations_are_in_no_key(operations: dict[str, Any]) -> None:
    assert changed(**operations) == set()


@pytest.mark.parametrize(
    ("science", "touched"),
    [
        ({"data": {"exclude": ["train/a/b.jpg"]}}, ALL - {"build"}),
        ({"seed": 12}, ALL - {"prepare"}),
        ({"model": {"dropout": 0.1}}, ALL - {"prepare"}),
        ({"optim": {"lr": 0.06}}, {"train", "freeze_bn", "evaluate", "fuse", "report"}),
        ({"train": {"epochs": 7}}, {"train", "freeze_bn", "evaluate", "fuse", "report"}),
        ({"freeze_bn": {"last_epochs": 1}}, {"train", "freeze_bn", "evaluate", "fuse", "report"}),
        ({"freeze_bn": {"scope": "statistics"}}, {"freeze_bn", "evaluate", "fuse", "report"}),
        ({"evaluate": {"batch": 4}}, {"evaluate", "fuse", "report"}),
        ({"fuse": {"averaging": "logits"}}, {"fuse", "report"}),
    ],
)
def test_a_change_touches_the_stages_it_can_change_and_those_after_them(
    science: dict[str, Any], touched: set[str]
) -> None:
    assert changed(**science) == touched


def test_without_frozen_epochs_evaluate_reads_train() -> None:
    placed = place_stages(small_recipe(Path("/images"), freeze_bn={"last_epochs": 0}), Path("run"), STAGES)
    assert set(placed) == ALL - {"freeze_bn"}
    assert placed["evaluate"].inputs == ("prepare", "train")


def test_a_weight_file_needs_no_training_and_its_content_is_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"one")
    config = small_recipe(Path("/images"), evaluate={"weights": str(file)})
    placed = place_stages(config, Path("run"), STAGES)
    assert placed["evaluate"].inputs == ("prepare",)
    assert placed["report"].inputs == ("prepare", "evaluate", "fuse")
    file.write_bytes(b"two")
    assert keys(config)["evaluate"] != placed["evaluate"].key


def test_a_file_that_the_config_names_must_be_there() -> None:
    config = small_recipe(Path("/images"), evaluate={"weights": "/nowhere/weights.safetensors"})
    with pytest.raises(
        UserError, match=r"/nowhere/weights.safetensors: the config names this file, and it is not there"
    ):
        keys(config)
