from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from launch.state import last_checkpoint, stage_state
from launch.status import print_status, watch_status
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.running.attempts import ATTEMPTS, Outcome, note_end, note_start
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.journal import append_record, decode
from pipeline.store.lock import exclusive
from pipeline.tracking.events import EventLog
from stages import STAGES
from tests.launch.finished import finish, finish_prepare, save_checkpoint
from tests.recipes import small_recipe
from tests.sealed import seal_part


@pytest.fixture
def placed(tmp_path: Path) -> dict[str, PlacedStage]:
    """A run whose train stage has a directory with nothing in it."""
    write_run_config(tmp_path, small_recipe(tmp_path))
    placed = place_stages(small_recipe(tmp_path), tmp_path, STAGES)
    placed["train"].directory.mkdir()
    return placed


def start(stage: PlacedStage, world_size: int = 1) -> None:
    note_start(stage.directory, Ranks(0, 0, world_size))


def end(stage: PlacedStage, exit_code: int, message: str, rank: int = 0) -> None:
    note_end(stage.directory, Outcome(exit_code, message, rank))


def test_stages_that_nobody_began_wait_for_their_inputs(placed):
    assert stage_state(placed["prepare"], placed).condition == "to run"
    state = stage_state(placed["evaluate"], placed)
    assert (state.condition, state.detail) == ("waiting", "for prepare, freeze_bn")


def test_a_sealed_stage_is_done_and_shows_its_figures(placed):
    start(placed["train"], world_size=2)
    end(placed["train"], 0, "done")
    finish(placed["train"], {"epochs": 4.0})
    state = stage_state(placed["train"], placed)
    assert state.condition == "done"
    assert "took 0.0 s" in state.detail
    assert state.metrics == {"train": {"epochs": 4.0}}


def test_a_stage_with_a_part_to_make_is_not_done(placed):
    train, val = placed["prepare"].parts
    seal_part(train)
    assert stage_state(placed["prepare"], placed).condition == "to run"
    seal_part(val, metrics={"images": 5})
    assert stage_state(placed["prepare"], placed).metrics == {"prepare-train": {}, "prepare-val": {"images": 5}}


def test_a_stage_that_was_killed_once_it_was_done_claims_no_duration(placed):
    start(placed["train"])
    finish(placed["train"])
    assert "took" not in stage_state(placed["train"], placed).detail


@pytest.mark.parametrize(("old", "new", "told"), [("{", "", "not a readable seal"), ('"key"', '"kez"', "damaged")])
def test_a_stage_with_a_damaged_seal_has_failed(placed, old, new, told):
    finish(placed["train"])
    seal = placed["train"].directory / "seal.json"
    seal.write_text(seal.read_text().replace(old, new, 1))
    state = stage_state(placed["train"], placed)
    assert state.condition == "failed"
    assert f"{seal}: {told}" in state.detail


def test_a_stage_whose_seal_is_gone_has_failed(placed):
    start(placed["train"])
    end(placed["train"], 0, "done")
    state = stage_state(placed["train"], placed)
    assert (state.condition, state.detail) == ("failed", "its seal is gone")


def test_a_stage_whose_directory_is_locked_is_running_whatever_its_files_say(placed):
    start(placed["train"])
    end(placed["train"], 1, "an earlier attempt's")
    with exclusive(placed["train"].directory):
        start(placed["train"])
        state = stage_state(placed["train"], placed)
        assert state.condition == "running"
        assert state.detail.startswith("pid ")
        end(placed["train"], 1, "this attempt's")
    assert stage_state(placed["train"], placed).condition == "failed"


@pytest.mark.parametrize(("code", "condition"), [(75, "stopped"), (2, "failed"), (1, "failed")])
def test_the_end_of_the_last_attempt_decides_between_stopped_and_failed(placed, code, condition):
    start(placed["train"], world_size=2)
    end(placed["train"], code, "what it said", rank=1)
    state = stage_state(placed["train"], placed)
    assert (state.condition, state.detail) == (condition, "what it said")


def test_an_attempt_without_an_end_and_without_a_lock_was_killed(placed):
    start(placed["train"])
    assert stage_state(placed["train"], placed).condition == "killed"


def test_a_damaged_line_of_the_attempts_is_passed_over(placed):
    start(placed["train"])
    attempts = placed["train"].directory / ATTEMPTS
    line = bytearray(attempts.read_bytes())
    line[10] ^= 1
    attempts.write_bytes(line)
    assert stage_state(placed["train"], placed).condition == "waiting"


def test_the_last_checkpoint_is_the_newest_with_a_sound_seal(placed):
    directory = placed["train"].directory
    assert last_checkpoint(directory) is None
    for step in (9, 123, 130):
        save_checkpoint(directory, step)
    os.utime(directory / "checkpoints" / "step-00000123" / "seal.json", (5.0, 7.0))
    (directory / "checkpoints" / "step-00000130" / "seal.json").unlink()
    assert last_checkpoint(directory) == (123, 7.0)


def test_status_shows_every_stage_and_the_command_that_goes_on(placed, tmp_path, capsys):
    finish(placed["build"], {"parameters": 555, "notes": "long", "best": {"loss": 1.0}})
    start(placed["train"])
    end(placed["train"], 75, "stopped on request")
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
    finish(
        placed["train"],
        {"top1_error_percent": 1.391, "top5_error_percent": None, "epochs": 8.01112, "images_per_second": 18_560.4},
    )
    assert print_status(tmp_path) == 0
    assert "8.0 epochs, 18,560 images/s, top-1 error 1.39 %\n" in capsys.readouterr().out


def test_status_on_a_terminal_is_cleared_only_when_the_new_one_is_known(placed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: (tmp_path / "config.yaml").unlink())
    with pytest.raises(UserError, match="not a run directory"):
        watch_status(tmp_path, 1)
    shown = capsys.readouterr().out
    assert shown.startswith(f"\x1b[H\x1b[2Jsmall in {tmp_path}\n")
    assert shown.count("\x1b[2J") == 1, "cleared before it was known what to show"


def test_clocks_that_differ_between_nodes_make_no_age_or_duration_negative(placed, tmp_path, capsys, monkeypatch):
    ahead = time.time() + 3600
    directory = placed["train"].directory
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: ahead)
        events = EventLog(directory)
        events.write("train", global_step=3, epoch=0.5, loss=1.0, images_per_second=10.0)
        events.close()
    checkpoint = save_checkpoint(directory, 3)
    os.utime(checkpoint / "seal.json", (ahead, ahead))
    placed["build"].directory.mkdir()
    append_record(placed["build"].directory / ATTEMPTS, {"kind": "start", "time": ahead, "world_size": 1})
    done = {"kind": "end", "time": ahead - 60, "exit_code": 0, "message": "done", "rank": 0}
    append_record(placed["build"].directory / ATTEMPTS, done)
    finish(placed["build"])
    finish_prepare(placed["prepare"], 48)
    with exclusive(directory):
        assert print_status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "took 0.0 s" in shown
    assert "checkpoint after step 3, 0.0 s ago" in shown
    assert "step 3 of 8, epoch 0.5, 10.0 images/s, ETA 12 s, loss 1.000, 0.0 s ago" in shown


def test_a_rate_and_time_left_are_those_of_the_attempt_that_runs(placed, tmp_path, capsys):
    directory = placed["train"].directory
    finish_prepare(placed["prepare"], 48)
    for _ in range(2):
        directory.mkdir(exist_ok=True)
        note_start(directory, Ranks())
        with exclusive(directory):
            print_status(tmp_path)
            assert "images/s" not in capsys.readouterr().out, "nothing is measured yet"
            events = EventLog(directory)
            events.write("train", global_step=3, epoch=0.5, loss=1.0, images_per_second=10.0)
            events.close()
            print_status(tmp_path)
            assert "step 3 of 8, epoch 0.5, 10.0 images/s, ETA" in capsys.readouterr().out


def test_status_of_evaluated_plans_has_a_line_each(placed, tmp_path, capsys):
    errors = {"top1_error_percent": 12.5, "top5_error_percent": 1.0, "crops": 10}
    finish(placed["evaluate"], {"10crop": errors})
    assert print_status(tmp_path) == 0
    assert "10crop: top-1 error 12.50 %, top-5 error 1.00 %" in capsys.readouterr().out


def test_status_of_scores_without_labels_says_so(placed, tmp_path, capsys):
    finish(placed["evaluate"], {"center32": {"crops": 1}})
    assert print_status(tmp_path) == 0
    assert "center32: scores without labels" in capsys.readouterr().out


def test_status_of_the_splits_has_a_line_each(placed, tmp_path, capsys):
    for part, images in zip(placed["prepare"].parts, (1_281_167, 50_000), strict=True):
        seal_part(part, metrics={f"{part.split}_images": images, "classes": 1000})
    assert print_status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "1,281,167 training images, 1,000 classes\n" in shown
    assert "50,000 validation images, 1,000 classes\n" in shown


def test_status_of_a_long_record_reads_its_end_alone(placed, tmp_path, capsys, monkeypatch):
    events = placed["train"].directory / "events.jsonl"
    log = EventLog(placed["train"].directory)
    log.write("train", global_step=7, epoch=1.0, loss=2.0, images_per_second=10.0)
    log.close()
    line = events.read_bytes()
    with events.open("wb") as file:
        for _ in range(20_000):
            file.write(line)
    finish_prepare(placed["prepare"], 48)
    read = []
    monkeypatch.setattr("pipeline.store.journal.decode", lambda line, decode=decode: read.append(1) or decode(line))
    assert print_status(tmp_path) == 0
    assert "step 7 of 8, epoch 1.0, loss 2.000" in capsys.readouterr().out
    assert 0 < len(read) < 2000


def test_damage_of_what_status_reads_is_a_line_each(placed, tmp_path, capsys):
    for stage in placed.values():
        finish(stage)
    damaged = [stage.directory / "seal.json" for stage in placed.values()]
    for seal in damaged:
        content = bytearray(seal.read_bytes())
        content[len(content) // 2] ^= 1
        seal.write_bytes(content)
    (placed["train"].directory / "events.jsonl").write_bytes(b"\x00{not a record\n")
    (tmp_path / "wandb.json").write_text("{")
    assert print_status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert all(str(seal) in shown for seal in damaged)
