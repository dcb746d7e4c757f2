from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launch.run_directory import describe_changes, set_up
from pipeline.config.reader import read_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import place_stages
from pipeline.store.lock import exclusive
from stages import STAGES
from tests.recipes import small_recipe


def start(run: Path, config: Config, accept_changes: bool = False) -> None:
    set_up(run, config, place_stages(config, run, STAGES).values(), accept_changes)


def begin(run: Path, config: Config) -> None:
    """A run whose every stage is done."""
    start(run, config)
    for stage in place_stages(config, run, STAGES).values():
        stage.directory.mkdir()
        (stage.directory / "manifest.json").write_text("{}")


def test_config_and_provenance_are_written_before_anything_runs(tmp_path):
    config = small_recipe(tmp_path)
    start(tmp_path / "runs" / "small", config)
    assert read_run_config(tmp_path / "runs" / "small") == config
    provenance = json.loads((tmp_path / "runs" / "small" / "provenance.json").read_text())
    assert {"git", "packages", "python", "command"} <= set(provenance)
    assert sorted(file.name for file in (tmp_path / "runs" / "small").iterdir()) == ["config.yaml", "provenance.json"]


@pytest.mark.parametrize(
    "operations",
    [
        {"loader": {"threads": 7}},
        {"checkpoint": {"keep_last": 5}},
        {"tracking": {"log_every_steps": 1}},
        {"resources": {"processes": 2}},
    ],
)
def test_how_a_run_is_carried_out_may_change(tmp_path, operations: dict[str, Any]):
    start(tmp_path / "run", small_recipe(tmp_path))
    changed = small_recipe(tmp_path, **operations)
    start(tmp_path / "run", changed)
    assert read_run_config(tmp_path / "run") == changed


def test_another_config_is_refused_with_all_differences_and_their_stages(tmp_path):
    run = tmp_path / "run"
    begin(run, small_recipe(tmp_path))
    other = small_recipe(tmp_path, optim={"lr": 0.1}, train={"label_smoothing": 0.0}, loader={"threads": 3})
    with pytest.raises(UserError) as raised:
        start(run, other)
    assert str(raised.value).splitlines() == [
        f"{run} was set up with another config; this one differs in",
        "  optim.lr: 0.05 -> 0.1",
        "  train.label_smoothing: 0.1 -> 0.0",
        "stages that would start anew, in new directories: train, freeze_bn, evaluate, fuse, report",
        "stages that would be kept: prepare, build",
        "give another --run DIR to keep both runs, or --accept-changes to go on in this one",
    ]
    assert read_run_config(run) == small_recipe(tmp_path), "the refused config was written"


def test_another_name_is_refused(tmp_path):
    begin(tmp_path / "run", small_recipe(tmp_path))
    with pytest.raises(UserError, match='name: "small" -> "other"'):
        start(tmp_path / "run", small_recipe(tmp_path, name="other"))


def test_a_loader_whose_pixels_differ_is_not_an_operation(tmp_path):
    begin(tmp_path / "run", small_recipe(tmp_path))
    with pytest.raises(UserError, match=r'loader\.backend: "dali" -> "reference"'):
        start(tmp_path / "run", small_recipe(tmp_path, loader={"backend": "reference"}))


def test_freezing_another_checkpoint_is_another_config(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"global_step": 9, "files": {}}))
    begin(tmp_path / "run", small_recipe(tmp_path))
    other = small_recipe(tmp_path, freeze_bn={"from_checkpoint": str(tmp_path)}, loader={"threads": 3})
    changes = describe_changes(tmp_path / "run", other)
    assert changes is not None
    assert changes.splitlines()[1:] == [
        f'  freeze_bn.from_checkpoint: null -> "{tmp_path}"',
        "stages that would start anew, in new directories: freeze_bn, evaluate, fuse, report",
        "stages that would be kept: prepare, build, train",
    ]


def test_another_weight_file_is_another_config(tmp_path):
    old, new = (tmp_path / name for name in ("old.safetensors", "new.safetensors"))
    old.touch()
    new.touch()
    begin(tmp_path / "run", small_recipe(tmp_path, evaluate={"weights": str(old)}))
    with pytest.raises(UserError, match=r"evaluate\.weights: .*\n.* in new directories: evaluate, fuse, report\n"):
        start(tmp_path / "run", small_recipe(tmp_path, evaluate={"weights": str(new)}))


def test_accepted_changes_become_the_run_s_config(tmp_path):
    other = small_recipe(tmp_path, optim={"lr": 0.1})
    begin(tmp_path / "run", small_recipe(tmp_path))
    start(tmp_path / "run", other, accept_changes=True)
    assert read_run_config(tmp_path / "run") == other
    assert describe_changes(tmp_path / "run", other) is None


def test_while_nothing_is_done_a_mistake_in_the_recipe_is_simply_corrected(tmp_path):
    start(tmp_path / "run", small_recipe(tmp_path / "mistyped"))
    place_stages(small_recipe(tmp_path / "mistyped"), tmp_path / "run", STAGES)["prepare"].directory.mkdir()
    start(tmp_path / "run", small_recipe(tmp_path))
    assert read_run_config(tmp_path / "run") == small_recipe(tmp_path)


@pytest.mark.parametrize("work", ["checkpoint", "somebody at work", "jobs"])
def test_what_is_saved_at_work_or_submitted_is_not_done_but_begun(tmp_path, work: str):
    run, config = tmp_path / "run", small_recipe(tmp_path)
    start(run, config)
    stages = place_stages(config, run, STAGES)
    with contextlib.ExitStack() as stack:
        if work == "checkpoint":
            checkpoints = stages["train"].directory / "checkpoints"
            checkpoints.mkdir(parents=True)
            (checkpoints / "latest.json").write_text('{"checkpoint": "step-00000003"}')
        elif work == "jobs":
            (run / "jobs.json").write_text("[]")
        else:
            stages["prepare"].directory.mkdir()
            stack.enter_context(exclusive(stages["prepare"].directory))
        with pytest.raises(UserError, match=r"optim\.lr: 0\.05 -> 0\.1"):
            start(run, small_recipe(tmp_path, optim={"lr": 0.1}))


@pytest.mark.parametrize("place", ["/proc/run", "/sys/run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    with pytest.raises(UserError, match=f"{place}: cannot be made or written"):
        start(Path(place), small_recipe(tmp_path))


def test_a_disk_without_room_for_the_checkpoints_is_refused(tmp_path):
    config = small_recipe(tmp_path, checkpoint={"keep_last": 10**9})
    with pytest.raises(UserError, match=r"the checkpoints will need [\d,.]+ GB .* free there; .*checkpoint\.keep_last"):
        start(tmp_path / "run", config)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_a_run_already_holds_needs_no_room_again(tmp_path, monkeypatch):
    config = small_recipe(tmp_path, freeze_bn={"last_epochs": 0})
    run = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10_000_000))
    with pytest.raises(UserError, match=r"will need 17\.9 MB \(each 4\.5 MB, 3 kept by each training stage"):
        start(run, config)
    train = place_stages(config, run, STAGES)["train"].directory
    train.mkdir(parents=True)
    with (train / "checkpoint").open("wb") as file:
        file.truncate(9_000_000)
    start(run, config)
