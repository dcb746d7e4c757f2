from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.job_graph import changed_stages, choose_stages, needed_stages
from pipeline.config.reader import config_differences
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage, place_stages
from stages import STAGES
from tests.recipes import small_recipe

ALL = ["prepare", "build", "train", "freeze_bn", "evaluate", "fuse", "report"]


def place(run: Path, config: Config) -> dict[str, PlacedStage]:
    return place_stages(config, run, STAGES)


def declare_done(stage: PlacedStage) -> None:
    stage.directory.mkdir(parents=True)
    (stage.directory / "manifest.json").write_text("{}")


def test_a_whole_recipe_needs_every_stage(tmp_path):
    assert list(needed_stages(place(tmp_path, small_recipe(tmp_path)))) == ALL


def test_a_recipe_without_frozen_epochs_has_no_such_stage(tmp_path):
    config = small_recipe(tmp_path, freeze_bn={"last_epochs": 0})
    assert list(needed_stages(place(tmp_path, config))) == [name for name in ALL if name != "freeze_bn"]


def test_evaluating_a_weight_file_needs_no_training(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    config = small_recipe(tmp_path, evaluate={"weights": str(weights)})
    assert "train" not in needed_stages(place(tmp_path, config))
    assert "evaluate" in needed_stages(place(tmp_path, config))


def test_freezing_a_given_checkpoint_needs_no_train_stage(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"global_step": 9, "files": {}}))
    config = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(tmp_path)})
    needed = needed_stages(place(tmp_path, config))
    assert "freeze_bn" in needed
    assert "train" not in needed


def test_only_and_from_choose_stages_whose_inputs_are_done(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    assert list(choose_stages(placed, None, None, ())) == ALL
    assert list(choose_stages(placed, "build", None, ())) == ["build"]
    declare_done(placed["prepare"])
    declare_done(placed["build"])
    assert list(choose_stages(placed, "train", None, ())) == ["train"]
    assert list(choose_stages(placed, None, "train", ())) == ["train", "freeze_bn", "evaluate", "fuse", "report"]


def test_missing_inputs_are_named_with_the_commands_that_make_them(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    declare_done(placed["build"])
    with pytest.raises(UserError) as raised:
        choose_stages(placed, None, "freeze_bn", ("a.yaml", "seed=3"))
    first, *commands = str(raised.value).splitlines()
    assert first == "stage 'freeze_bn' needs what prepare and train would make, and that is not there yet; run"
    assert [command.partition("-m launch ")[2] for command in commands] == [
        "run a.yaml seed=3 --only prepare",
        "run a.yaml seed=3 --only train",
    ]


def test_a_finished_stage_may_be_asked_for_without_its_inputs(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    declare_done(placed["train"])
    assert list(choose_stages(placed, "train", None, ())) == ["train"]


@pytest.mark.parametrize(("only", "first", "option"), [("melt", None, "--only"), (None, "melt", "--from")])
def test_unknown_stages_are_refused_with_the_known_ones(tmp_path, only, first, option):
    message = f"{option}: this recipe needs no stage 'melt' \\(its stages: {', '.join(ALL)}\\)"
    with pytest.raises(UserError, match=message):
        choose_stages(place(tmp_path, small_recipe(tmp_path)), only, first, ())


@pytest.mark.parametrize(
    ("section", "values", "changed"),
    [
        ("optim", {"lr": 0.1}, ["train", "freeze_bn", "evaluate", "fuse", "report"]),
        ("freeze_bn", {"scope": "statistics"}, ["freeze_bn", "evaluate", "fuse", "report"]),
        ("freeze_bn", {"last_epochs": 0}, ["train", "evaluate", "fuse", "report"]),
        ("evaluate", {"batch": 9}, ["evaluate", "fuse", "report"]),
        ("model", {"dropout": 0.5}, ["build", "train", "freeze_bn", "evaluate", "fuse", "report"]),
        ("checkpoint", {"keep_last": 7}, []),
        ("loader", {"threads": 7}, []),
        ("loader", {"backend": "reference"}, ["train", "freeze_bn", "evaluate", "fuse", "report"]),
    ],
)
def test_changed_stages_are_those_whose_key_changes(tmp_path, section, values, changed):
    old, new = small_recipe(tmp_path), small_recipe(tmp_path, **{section: values})
    keys = [line.partition(":")[0] for line in config_differences(old, new)]
    assert changed_stages(old, new, keys, STAGES) == changed
    before, after = place(tmp_path, old), place(tmp_path, new)
    assert changed == [name for name in after if name not in before or before[name].key != after[name].key]
