from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from launch.state import last_checkpoint, stage_state
from launch.status import print_status, watch_status
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import UserError
from pipeline.running.attempts import recorded_attempt
from pipeline.running.outcome import Outcome, write_outcome
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive
from pipeline.store.manifest import Manifest, write_manifest
from stages import STAGES
from tests.recipes import small_recipe


@pytest.fixture
def placed(tmp_path: Path) -> dict[str, PlacedStage]:
    """A run whose train stage has a directory with nothing in it."""
    write_run_config(tmp_path, small_recipe(tmp_path))
    placed = place_stages(small_recipe(tmp_path), tmp_path, STAGES)
    placed["train"].directory.mkdir()
    return placed


def finish(stage: PlacedStage, metrics: dict[str, object]) -> None:
    stage.directory.mkdir(exist_ok=True)
    provenance = {"time": "2026-01-02T03:04:05+00:00"}
    write_manifest(stage.directory, Manifest(stage.name, stage.key, {}, {}, {}, provenance, metrics))


def test_stages_that_nobody_began_wait_for_their_inputs(placed):
    assert stage_state(placed["prepare"], placed).condition == "to run"
    state = stage_state(placed["evaluate"], placed)
    assert (state.condition, state.detail) == ("waiting", "for prepare, freeze_bn")


def test_a_stage_with_a_manifest_is_done_and_shows_its_figures(placed):
    with recorded_attempt(placed["train"].directory, world_size=2):
        pass
    finish(placed["train"], {"epochs": 4.0})
    state = stage_state(placed["train"], placed)
    assert state.condition == "done"
    assert "took 0.0 s" in state.detail
    assert state.metrics == {"epochs": 4.0}


def test_a_stage_that_was_killed_once_it_was_done_claims_no_duration(placed):
    attempt = {"kind": "start", "time": 1.0, "world_size": 1}
    (placed["train"].directory / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    finish(placed["train"], {})
    assert "took" not in stage_state(placed["train"], placed).detail


def test_a_stage_with_an_unreadable_manifest_has_failed(placed):
    (placed["train"].directory / "manifest.json").write_text("{")
    state = stage_state(placed["train"], placed)
    assert state.condition == "failed"
    assert "not a readable manifest" in state.detail


def test_a_stage_whose_directory_is_locked_is_running_whatever_its_files_say(placed):
    write_outcome(placed["train"].directory, Outcome(1, "an earlier attempt's", 0))
    with exclusive(placed["train"].directory), recorded_attempt(placed["train"].directory, world_size=1):
        state = stage_state(placed["train"], placed)
        assert state.condition == "running"
        assert state.detail.startswith("pid ")
    assert stage_state(placed["train"], placed).condition == "failed"


@pytest.mark.parametrize(("code", "condition"), [(75, "stopped"), (2, "failed"), (1, "failed")])
def test_the_note_that_a_stage_left_decides_between_stopped_and_failed(placed, code, condition):
    write_outcome(placed["train"].directory, Outcome(code, "what it said", 1))
    state = stage_state(placed["train"], placed)
    assert (state.condition, state.detail, state.is_unfinished) == (condition, "what it said", True)


def test_a_attempt_without_an_end_and_without_a_lock_was_killed(placed):
    attempt = {"kind": "start", "time": 1.0, "world_size": 1}
    (placed["train"].directory / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    assert stage_state(placed["train"], placed).condition == "killed"


def test_a_attempt_that_could_not_leave_a_note_tells_its_error_itself(placed):
    def fail(error: Exception) -> None:
        with recorded_attempt(placed["train"].directory, world_size=1):
            raise error

    for error, told in ((OSError("no space"), "OSError: no space"), (UserError("free some space"), "free some space")):
        with pytest.raises(type(error), match="space"):
            fail(error)
        state = stage_state(placed["train"], placed)
        assert (state.condition, state.detail) == ("failed", told)


def test_the_last_checkpoint_is_the_one_that_latest_names(placed):
    directory = placed["train"].directory
    assert last_checkpoint(directory) is None
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "latest.json").write_text('{"checkpoint": "step-00000123"}')
    saved = last_checkpoint(directory)
    assert saved is not None
    assert saved[0] == 123


def test_status_shows_every_stage_and_the_command_that_goes_on(placed, tmp_path, capsys):
    finish(placed["build"], {"parameters": 555, "notes": "long", "best": {"loss": 1.0}})
    write_outcome(placed["train"].directory, Outcome(75, "stopped on request", 0))
    assert print_status(tmp_path) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if line and not line.startswith(" ")}
    assert "to run" in rows["prepare"]
    assert "done" in rows["build"]
    assert "555 parameters\n" in shown
    assert "stopped, resumable" in rows["train"]
    assert "no checkpoint yet" in shown
    assert "waiting" in rows["report"]
    assert shown.rstrip().endswith(f"-m launch run {tmp_path}/config.yaml --run {tmp_path}")


def test_status_says_figures_in_words_with_units(placed, tmp_path, capsys):
    finish(placed["train"], {"top1_error_percent": 1.391, "epochs": 8.01112, "images_per_second": 18_560.4})
    assert print_status(tmp_path) == 0
    assert "8.011 epochs, top-1 error 1.39 %, 18,560 images/s\n" in capsys.readouterr().out


def test_status_on_a_terminal_is_cleared_only_when_the_new_one_is_known(placed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: (tmp_path / "config.yaml").unlink())
    with pytest.raises(UserError, match="not a run directory"):
        watch_status(tmp_path, 1)
    shown = capsys.readouterr().out
    assert shown.startswith(f"\x1b[H\x1b[2Jsmall in {tmp_path}\n")
    assert shown.count("\x1b[2J") == 1, "cleared before it was known what to show"


def test_clocks_that_differ_between_nodes_make_no_age_or_duration_negative(placed, tmp_path, capsys):
    ahead = time.time() + 3600
    directory = placed["train"].directory
    event = {"kind": "train", "time": ahead, "global_step": 3, "epoch": 0.5, "loss": 1.0, "images_per_second": 10.0}
    (directory / "events.jsonl").write_text(json.dumps(event) + "\n")
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "latest.json").write_text('{"checkpoint": "step-00000003"}')
    os.utime(directory / "checkpoints" / "latest.json", (ahead, ahead))
    attempts = [{"kind": "start", "time": ahead, "world_size": 1}, {"kind": "end", "time": ahead - 60, "error": None}]
    placed["build"].directory.mkdir()
    (placed["build"].directory / "attempts.jsonl").write_text(
        "".join(json.dumps(attempt) + "\n" for attempt in attempts)
    )
    finish(placed["build"], {})
    finish(placed["prepare"], {})
    (placed["prepare"].directory / "train.tsv").write_text("path\n" + "image\n" * 48)
    with exclusive(directory):
        assert print_status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "took 0.0 s" in shown
    assert "checkpoint after step 3, 0:00:00 ago" in shown
    assert "step 3 of 8, epoch 0.50, 10.0 images/s, ETA 0:00:12, loss 1.000, 0:00:00 ago" in shown


def test_status_of_evaluated_plans_has_a_line_each(placed, tmp_path, capsys):
    errors = {"top1_error_percent": 12.5, "top5_error_percent": 1.0, "crops": 10}
    finish(placed["evaluate"], {"10crop": errors})
    assert print_status(tmp_path) == 0
    assert "10crop: top-1 error 12.50 %, top-5 error 1.00 %" in capsys.readouterr().out
