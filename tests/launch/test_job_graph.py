from __future__ import annotations

from pathlib import Path

import pytest

from launch.job_graph import choose_stages
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage, place_stages
from stages import STAGES
from tests.launch.finished import finish, save_checkpoint
from tests.recipes import small_recipe


def place(run: Path, config: Config) -> dict[str, PlacedStage]:
    return place_stages(config, run, STAGES)


def active(config: Config) -> list[str]:
    return [stage.name for stage in STAGES if stage.is_active(config)]


def test_a_whole_recipe_needs_every_stage(tmp_path):
    config = small_recipe(tmp_path)
    assert list(choose_stages(place(tmp_path, config), None, None, ())) == active(config)


def test_evaluating_a_weight_file_needs_no_training(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    chosen = choose_stages(place(tmp_path, small_recipe(tmp_path, evaluate={"weights": str(weights)})), None, None, ())
    assert "evaluate" in chosen
    assert not any(stage.stage.is_training for stage in chosen.values())
    assert [part.name for part in chosen["prepare"].parts] == ["prepare-val"]


def test_freezing_a_given_checkpoint_needs_no_train_stage(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 9)
    config = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(checkpoint)})
    chosen = choose_stages(place(tmp_path, config), None, None, ())
    assert [name for name, stage in chosen.items() if stage.stage.is_training] == ["freeze_bn"]


def test_only_and_from_choose_stages_whose_inputs_are_done(tmp_path):
    config = small_recipe(tmp_path)
    placed = place(tmp_path, config)
    assert list(choose_stages(placed, "build", None, ())) == ["build"]
    finish(placed["prepare"])
    finish(placed["build"])
    assert list(choose_stages(placed, "train", None, ())) == ["train"]
    names = active(config)
    assert list(choose_stages(placed, None, "train", ())) == names[names.index("train") :]


def test_missing_inputs_are_named_with_the_commands_that_make_them(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    with pytest.raises(UserError, match="stage 'freeze_bn' needs what prepare, build and train would make, and"):
        choose_stages(placed, None, "freeze_bn", ("a.yaml",))
    finish(placed["build"])
    with pytest.raises(UserError) as raised:
        choose_stages(placed, None, "freeze_bn", ("a.yaml", "seed=3"))
    first, *commands = str(raised.value).splitlines()
    assert first == "stage 'freeze_bn' needs what prepare and train would make, and that is not there yet; run"
    assert [command.partition("-m launch ")[2] for command in commands] == [
        "run a.yaml seed=3 --only prepare",
        "run a.yaml seed=3 --only train",
    ]


def test_an_input_that_is_done_in_part_is_missing(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    for stage in ("prepare", "build"):
        finish(placed[stage])
    (placed["prepare"].parts[-1].directory / "seal.json").unlink()
    with pytest.raises(UserError, match="stage 'train' needs what prepare would make, and that is not there yet"):
        choose_stages(placed, "train", None, ("a.yaml",))


def test_a_stage_whose_inputs_are_queued_may_be_chosen(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    assert list(choose_stages(placed, "train", None, (), "submit", ("prepare", "build"))) == ["train"]


def test_a_finished_stage_may_be_asked_for_without_its_inputs(tmp_path):
    placed = place(tmp_path, small_recipe(tmp_path))
    finish(placed["train"])
    assert list(choose_stages(placed, "train", None, ())) == ["train"]


@pytest.mark.parametrize(("only", "first", "option"), [("melt", None, "--only"), (None, "melt", "--from")])
def test_unknown_stages_are_refused_with_the_known_ones(tmp_path, only, first, option):
    config = small_recipe(tmp_path)
    message = f"{option}: this recipe needs no stage 'melt' \\(its stages: {', '.join(active(config))}\\)"
    with pytest.raises(UserError, match=message):
        choose_stages(place(tmp_path, config), only, first, ())
