"""Nothing starts from zero silently."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import launch.changes
from launch.changes import describe_changes
from launch.run_directory import set_up
from launch.slurm.jobs import JobRecord, write_jobs
from pipeline.config.reader import load_config, read_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from pipeline.ground.ranks import Ranks
from pipeline.running.attempts import Outcome, note_end, note_start
from pipeline.running.named_weights import new_choices
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive
from pipeline.store.seal import seal_directory
from stages import STAGES
from tests.conftest import REPOSITORY
from tests.launch.finished import finish, save_checkpoint
from tests.recipes import small_recipe

ADVICE = "give another --run DIR to keep both runs, or --accept-changes to go on in this one"


def place(run: Path, config: Config) -> dict[str, PlacedStage]:
    return place_stages(config, run, STAGES)


def start(run: Path, config: Config, accept_changes: bool = False) -> None:
    set_up(run, config, place(run, config).values(), accept_changes)


def begin(run: Path, config: Config) -> dict[str, PlacedStage]:
    """A run whose every stage is done."""
    start(run, config)
    placed = place(run, config)
    for stage in placed.values():
        finish(stage)
    return placed


def made_from(placed: dict[str, PlacedStage], *names: str) -> str:
    """These stages and all that are made from them, in order."""
    found = set(names)
    for name, stage in placed.items():
        if found.intersection(stage.inputs):
            found.add(name)
    return ", ".join(name for name in placed if name in found)


def kept(placed: dict[str, PlacedStage], *names: str) -> str:
    """All other stages, in order."""
    return ", ".join(name for name in placed if name not in made_from(placed, *names).split(", "))


def refusal(run: Path, config: Config) -> list[str]:
    with pytest.raises(UserError) as raised:
        start(run, config)
    return str(raised.value).splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_another_recipe_is_refused_with_all_differences_and_their_stages(tmp_path, run):
    placed = begin(run, small_recipe(tmp_path))
    other = small_recipe(tmp_path, optim={"lr": 0.1}, train={"label_smoothing": 0.0}, loader={"threads": 3})
    assert refusal(run, other) == [
        f"{run} was set up with another recipe; this one differs in",
        "  optim.lr: 0.05 -> 0.1",
        "  train.label_smoothing: 0.1 -> 0.0",
        f"stages that would begin anew, beside the old: {made_from(placed, 'train')}",
        f"stages that would be kept: {kept(placed, 'train')}",
        ADVICE,
    ]
    assert read_run_config(run) == small_recipe(tmp_path), "the refused recipe was written"


@pytest.mark.parametrize(
    ("sections", "difference", "first"),
    [
        ({"data": {"exclude": ["val/a/b.jpg"]}}, 'data.exclude: [] -> ["val/a/b.jpg"]', "prepare"),
        ({"model": {"dropout": 0.5}}, "model.dropout: null -> 0.5", "build"),
        ({"train": {"epochs": 5}}, "train.epochs: 6 -> 5", "train"),
        ({"loader": {"backend": "reference"}}, 'loader.backend: "dali" -> "reference"', "train"),
        (
            {"freeze_bn": {"scope": "statistics"}},
            'freeze_bn.scope: "statistics_and_affine" -> "statistics"',
            "freeze_bn",
        ),
    ],
)
def test_stages_that_hold_work_worth_a_question_are_refused(tmp_path, run, sections, difference, first):
    begin(run, small_recipe(tmp_path))
    lines = refusal(run, small_recipe(tmp_path, **sections))
    assert lines[1] == f"  {difference}"
    assert lines[2].startswith(f"stages that would begin anew, beside the old: {first}, ")


def test_a_changed_crop_plan_of_the_validation_is_told_as_a_difference(tmp_path, run):
    begin(run, small_recipe(tmp_path))
    plan = {"name": "center32", "crops": [{"resize_px": 32, "crop_px": 24}]}
    lines = refusal(run, small_recipe(tmp_path, train={"validation": plan}))
    assert lines[1].startswith("  train.validation")


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES if not stage.beside])
def test_a_raised_version_is_refused_like_a_changed_recipe(tmp_path, run, stage, monkeypatch):
    config = small_recipe(tmp_path)
    begin(run, config)
    raised = [dataclasses.replace(each, version=each.version + 1) if each.name == stage else each for each in STAGES]
    version = next(each.version for each in STAGES if each.name == stage)
    monkeypatch.setattr(launch.changes, "STAGES", raised)
    monkeypatch.setattr("launch.run_directory.STAGES", raised)
    assert f"  {stage}: stage version {version} -> {version + 1}" in refusal(run, config)
    start(run, config, accept_changes=True)
    assert describe_changes(run, config) is None


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES if stage.beside])
def test_a_raised_version_of_a_cheap_stage_is_made_beside_the_old(tmp_path, run, stage, monkeypatch, capsys):
    config = small_recipe(tmp_path, report={"activations": True})
    begin(run, config)
    raised = [dataclasses.replace(each, version=each.version + 1) if each.name == stage else each for each in STAGES]
    monkeypatch.setattr(launch.changes, "STAGES", raised)
    start(run, config)
    assert capsys.readouterr().out.startswith(f"made anew, beside the old in {run}: {stage}")


@pytest.mark.parametrize(
    ("sections", "first"),
    [
        ({"evaluate": {"batch": 9}}, "evaluate"),
        ({"fuse": {"averaging": "logits"}}, "fuse"),
        ({"name": "other"}, "report"),
    ],
)
def test_what_is_cheap_is_made_beside_the_old_with_one_line(tmp_path, run, sections, first, capsys):
    placed = begin(run, small_recipe(tmp_path))
    changed = small_recipe(tmp_path, **sections)
    start(run, changed)
    assert capsys.readouterr().out == f"made anew, beside the old in {run}: {made_from(placed, first)}\n"
    assert read_run_config(run) == changed
    assert place(run, changed)["train"].is_done


@pytest.mark.parametrize(
    "sections",
    [
        {"loader": {"threads": 7}},
        {"checkpoint": {"keep_last": 5}},
        {"tracking": {"log_every_steps": 1}},
        {"resources": {"processes": 2}},
        {"train": {"validate_every_epochs": 2}},
        {"model": {"expect": {"parameters": 557_272, "gmacs": 0.00645}}},
    ],
)
def test_how_a_run_is_carried_out_and_what_it_claims_may_change(tmp_path, run, sections: dict[str, Any], capsys):
    begin(run, small_recipe(tmp_path))
    changed = small_recipe(tmp_path, **sections)
    start(run, changed)
    assert read_run_config(run) == changed
    assert capsys.readouterr().out == ""


def test_moved_images_need_no_flag(tmp_path, run, capsys):
    begin(run, small_recipe(tmp_path / "old"))
    start(run, small_recipe(tmp_path / "new", data={"train": "training", "shards": str(tmp_path / "shards")}))
    assert capsys.readouterr().out == ""


def test_a_stage_that_the_run_never_had_is_made(tmp_path, run, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    placed = begin(run, small_recipe(tmp_path, evaluate={"weights": str(weights)}))
    start(run, small_recipe(tmp_path))
    assert capsys.readouterr().out == f"made anew, beside the old in {run}: {made_from(placed, 'evaluate')}\n"


def test_a_split_that_the_run_never_had_is_made(tmp_path, run, capsys):
    recipe = REPOSITORY / "configs" / "senet154_1gpu.yaml"
    placed = begin(run, load_config(recipe, ["data.test=test"]))
    test = load_config(recipe, ["data.test=test", "evaluate.split=test", "fuse.selection=none"])
    start(run, test)
    assert capsys.readouterr().out == f"made anew, beside the old in {run}: evaluate, fuse\n"
    after = place(run, test)
    assert [part.name for part in after["prepare"].parts if not part.is_done] == ["prepare-test"]
    assert after["train"].key == placed["train"].key


def test_another_checkpoint_to_freeze_is_another_recipe(tmp_path, run):
    checkpoint = save_checkpoint(tmp_path, 9)
    placed = begin(run, small_recipe(tmp_path))
    other = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(checkpoint)}, loader={"threads": 3})
    assert refusal(run, other) == [
        f"{run} was set up with another recipe; this one differs in",
        f'  freeze_bn.from_checkpoint: null -> "{checkpoint}"',
        f"stages that would begin anew, beside the old: {made_from(placed, 'freeze_bn')}",
        f"stages that would be kept: {kept(placed, 'train')}",
        ADVICE,
    ]


def test_a_named_file_counts_by_its_content_and_not_by_its_path(tmp_path, run, capsys):
    first, second = save_checkpoint(tmp_path / "a", 9), tmp_path / "b" / "step-00000009"
    second.parent.mkdir()
    begin(run, small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(first)}))
    first.rename(second)
    moved = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(second)})
    start(run, moved)
    assert capsys.readouterr().out == ""
    (second / "seal.json").write_bytes((second / "seal.json").read_bytes() + b"\n")
    assert refusal(run, moved)[1] == f"  {second}: its content is another than it was"


def test_other_weights_to_begin_with_are_told_by_their_names_even_if_the_old_are_gone(tmp_path, run):
    def trained(name: str) -> str:
        folder = tmp_path / name / "train-0123456789"
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_text(name)
        seal_directory(folder, "stage", {}, ["weights.safetensors"])
        return str(folder)

    first, second = trained("first"), trained("second")
    placed = begin(run, small_recipe(tmp_path, model={"weights": first}))
    other = small_recipe(tmp_path, model={"weights": second}, loader={"threads": 3})
    told = [
        f"{run} was set up with another recipe; this one differs in",
        f'  model.weights: "{first}" -> "{second}"',
        f"stages that would begin anew, beside the old: {made_from(placed, 'build')}",
        f"stages that would be kept: {kept(placed, 'build')}",
        ADVICE,
    ]
    assert refusal(run, other) == told
    shutil.rmtree(first)
    with new_choices(run, wanted=True):
        pass
    assert refusal(run, other) == told


def test_another_weight_file_is_evaluated_beside_the_old(tmp_path, run, capsys):
    old, new = (tmp_path / f"{name}.safetensors" for name in ("old", "new"))
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    placed = begin(run, small_recipe(tmp_path, evaluate={"weights": str(old)}))
    start(run, small_recipe(tmp_path, evaluate={"weights": str(new)}))
    assert capsys.readouterr().out == f"made anew, beside the old in {run}: {made_from(placed, 'evaluate')}\n"


def test_accepted_changes_become_the_run_s_recipe(tmp_path, run, capsys):
    other = small_recipe(tmp_path, optim={"lr": 0.1})
    old = begin(run, small_recipe(tmp_path))
    start(run, other, accept_changes=True)
    assert capsys.readouterr().out == f"made anew, beside the old in {run}: {made_from(old, 'train')}\n"
    assert read_run_config(run) == other
    assert describe_changes(run, other) is None
    assert old["train"].is_done, "the old work is gone"


def test_work_that_was_accepted_to_be_left_is_not_asked_for_again(tmp_path, run):
    begin(run, small_recipe(tmp_path))
    start(run, small_recipe(tmp_path, optim={"lr": 0.1}), accept_changes=True)
    start(run, small_recipe(tmp_path, optim={"lr": 0.2}))


def test_while_nothing_is_done_a_mistake_in_the_recipe_is_simply_corrected(tmp_path, run):
    start(run, small_recipe(tmp_path, model={"num_classes": 5}))
    place(run, small_recipe(tmp_path, model={"num_classes": 5}))["build"].directory.mkdir()
    start(run, small_recipe(tmp_path))
    assert read_run_config(run) == small_recipe(tmp_path)


@pytest.mark.parametrize("work", ["checkpoint", "chunk", "somebody at work", "jobs"])
def test_what_is_saved_at_work_or_submitted_is_not_done_but_begun(tmp_path, run, work: str):
    config = small_recipe(tmp_path)
    start(run, config)
    stages = place(run, config)
    with contextlib.ExitStack() as stack:
        if work == "checkpoint":
            save_checkpoint(stages["train"].directory, 3)
        elif work == "chunk":
            (stages["prepare"].directory / "scan").mkdir(parents=True)
            (stages["prepare"].directory / "scan" / "chunk-0.seal.json").touch()
        elif work == "jobs":
            write_jobs(run, [JobRecord("train", stages["train"].key, "7", "p.yaml", 1.0, (), "log")])
        else:
            stages["train"].directory.mkdir()
            stack.enter_context(exclusive(stages["train"].directory))
        other = small_recipe(tmp_path, optim={"lr": 0.1}, data={"exclude": ["train/a/b.jpg"]})
        assert "  optim.lr: 0.05 -> 0.1" in refusal(run, other)


@pytest.mark.parametrize(("code", "asks"), [(EXIT_USER_ERROR, False), (EXIT_STOPPED, True), (EXIT_FAILED, True)])
def test_data_that_were_refused_are_corrected_without_a_question(tmp_path, run, code: int, asks: bool):
    config = small_recipe(tmp_path)
    start(run, config)
    directory = place(run, config)["prepare"].directory
    (directory / "scan").mkdir(parents=True)
    (directory / "scan" / "chunk-0.seal.json").touch()
    note_start(directory, Ranks())
    note_end(directory, Outcome(code, "3 images cannot be used", 0))
    corrected = small_recipe(tmp_path, data={"exclude": ["train/a/b.jpg"]})
    if asks:
        assert any("data.exclude" in line for line in refusal(run, corrected))
    else:
        start(run, corrected)
        assert read_run_config(run) == corrected


def test_only_the_run_s_own_recipe_counts_and_not_what_else_lies_in_a_shared_store(tmp_path, run):
    start(run, small_recipe(tmp_path))
    for stage in place(run, small_recipe(tmp_path, optim={"lr": 0.3})).values():
        finish(stage)
    start(run, small_recipe(tmp_path, optim={"lr": 0.1}))


@pytest.mark.parametrize("content", ["", "{", '{"stages": 7}', "{}"])
def test_a_damaged_record_of_the_set_up_is_made_up_for_by_the_run_s_config(tmp_path, run, content):
    begin(run, small_recipe(tmp_path))
    (run / "provenance.json").write_text(content)
    assert "  optim.lr: 0.05 -> 0.1" in refusal(run, small_recipe(tmp_path, optim={"lr": 0.1}))


def test_a_key_that_is_made_otherwise_is_refused_with_the_keys(tmp_path, run):
    config = small_recipe(tmp_path)
    placed = begin(run, config)
    record = json.loads((run / "provenance.json").read_text())
    record["stages"]["build"] = {
        "version": placed["build"].stage.version,
        "key": "0" * 10,
        "parts": {"build": "0" * 10},
    }
    (run / "provenance.json").write_text(json.dumps(record))
    placed["build"].directory.rename(run / f"build-{'0' * 10}")
    assert f"  build: 0000000000 -> {placed['build'].key}" in refusal(run, config)
