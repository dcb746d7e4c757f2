from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launch.slurm.requeue import (
    HISTORY,
    JobAttempt,
    decide,
    main,
    progress,
    read_job_attempts,
    restarts_without_progress,
)
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.running.outcome import Outcome, read_outcome, write_outcome
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive
from pipeline.store.manifest import Manifest, write_manifest
from stages import STAGES
from tests.recipes import small_recipe

STOPPED = Outcome(EXIT_STOPPED, "stopped after step 7", 0)
KNOWN: dict[str, Any] = {
    "is_done": False,
    "outcome": None,
    "code": 0,
    "nodes_answer": True,
    "was_warned": False,
    "state": "RUNNING",
    "is_requeued": False,
    "wasted": 0,
    "crashes": 0,
    "allowed_crashes": 0,
}


@pytest.fixture
def train(tmp_path: Path) -> PlacedStage:
    """A training stage that nobody has begun."""
    config = small_recipe(tmp_path)
    write_run_config(tmp_path, config)
    return place_stages(config, tmp_path, STAGES)["train"]


def ask(moment: str, stage: PlacedStage, *options: str, restart: int = 0, **variables: str) -> int:
    environment = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": str(restart)}
    arguments = [moment, stage.name, "--run", str(stage.directory.parent), "--key", stage.key, *options]
    return main(arguments, environment | variables)


def save(stage: PlacedStage, step: int) -> None:
    (stage.directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)


@pytest.mark.parametrize(
    ("known", "exit_code", "reason"),
    [
        ({"is_done": True, "outcome": STOPPED}, EXIT_DONE, "done"),
        ({"outcome": STOPPED}, EXIT_STOPPED, "stopped after step 7"),
        ({"was_warned": True, "code": 140}, EXIT_STOPPED, "stopped before it had begun"),
        ({"outcome": STOPPED, "wasted": 2}, EXIT_STOPPED, "stopped after step 7"),
        ({"outcome": STOPPED, "wasted": 3}, EXIT_FAILED, "started 3 times in a row without saving anything new"),
        ({"outcome": STOPPED, "state": "COMPLETING"}, EXIT_FAILED, "not requeued from here.*as COMPLETING"),
        ({"outcome": STOPPED, "state": ""}, EXIT_FAILED, "SLURM has the job as gone"),
        ({"is_done": True, "is_requeued": True, "state": "COMPLETING"}, EXIT_DONE, "^done$"),
        ({"outcome": Outcome(EXIT_FAILED, "no memory", 3)}, EXIT_FAILED, "^rank 3: no memory$"),
        ({"outcome": Outcome(EXIT_FAILED, "no memory", 3), "was_warned": True}, EXIT_FAILED, "^rank 3: no memory$"),
        (
            {"outcome": Outcome(EXIT_FAILED, "connection reset", 1), "nodes_answer": False},
            EXIT_STOPPED,
            "does not answer",
        ),
        ({"code": 137, "nodes_answer": False, "wasted": 3}, EXIT_FAILED, "without saving .* does not answer"),
        ({"code": 137}, EXIT_FAILED, "killed by signal 9 without a word"),
        ({"code": 1}, EXIT_FAILED, "ended with code 1 and left no message"),
        ({"code": 2}, EXIT_USER_ERROR, "refused to start"),
        ({"code": 137, "allowed_crashes": 2}, EXIT_STOPPED, r"crashed \(1 of at most 2 times.*killed by signal 9"),
        ({"code": 137, "allowed_crashes": 2, "crashes": 2}, EXIT_FAILED, "that was crash 3 of at most 3"),
        ({"code": 137, "allowed_crashes": 9, "wasted": 3}, EXIT_FAILED, "without saving anything new"),
        ({"outcome": Outcome(EXIT_USER_ERROR, "bad", 0), "allowed_crashes": 2}, EXIT_USER_ERROR, "rank 0: bad"),
    ],
)
def test_a_stopped_job_comes_back_and_a_failed_one_does_not(known, exit_code, reason):
    verdict = decide(**KNOWN | known)
    assert verdict.exit_code == exit_code
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (STOPPED, "by SLURM itself; stopped after step 7"),
        (Outcome(EXIT_FAILED, "connection reset", 1), "by SLURM itself; connection reset"),
        (None, "by SLURM itself; killed, or ended with code 137"),
    ],
)
def test_a_job_that_slurm_itself_requeues_has_not_failed_whatever_its_processes_said(outcome, reason):
    verdict = decide(**KNOWN | {"outcome": outcome, "code": 137, "state": "COMPLETING", "is_requeued": True})
    assert (verdict.ending, verdict.reason) == ("requeued", reason)
    assert verdict.exit_code not in (EXIT_DONE, EXIT_STOPPED), "the body would end well, or requeue it a second time"


def test_a_restart_that_squeue_counts_and_this_attempt_does_not_is_slurm_s_own(train, capsys):
    ask("start", train, restart=1)
    assert ask("end", train, "--state", "COMPLETING", "--restarts", "1", restart=1) == EXIT_FAILED
    assert ask("end", train, "--state", "COMPLETING", "--restarts", "2", restart=1) == EXIT_FAILED
    failed, requeued = capsys.readouterr().out.splitlines()[-2:]
    assert "train: failed: its processes ended with code 0" in failed
    assert "train: requeued: by SLURM itself" in requeued


def attempt(saved: str) -> JobAttempt:
    return JobAttempt("12", 0, 0.0, saved)


def test_attempts_are_fruitless_as_long_as_nothing_newer_is_saved():
    assert restarts_without_progress([], "nothing") == 0
    assert restarts_without_progress([attempt("nothing"), attempt("nothing")], "nothing") == 2
    assert restarts_without_progress([attempt("nothing"), attempt("a"), attempt("a")], "a") == 2
    assert restarts_without_progress([attempt("nothing"), attempt("nothing")], "a") == 0


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/step-00000008",
        "scores-center224.npy",
        "parts-center224/00000004.part",
        "scan/0123456789abcdef.json",
    ],
)
def test_progress_is_whatever_a_stage_goes_on_from(train, name):
    saved = train.directory / name
    saved.parent.mkdir(parents=True)
    (train.directory / "events.jsonl").touch()
    saved.with_name(f".tmp-7-{saved.name}").touch()
    assert progress(train) == "nothing"
    saved.touch()
    assert progress(train) == f"1: {name}"


def test_shards_are_progress_of_prepare_wherever_they_are_written(tmp_path):
    config = small_recipe(tmp_path, data={"shards": str(tmp_path / "scratch")})
    prepare = place_stages(config, tmp_path / "run", STAGES)["prepare"]
    assert progress(prepare) == "nothing"
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "train-00000.tar").touch()
    assert progress(prepare) == "1: train-00000.tar"


def test_a_job_that_is_stopped_again_and_again_without_saving_fails_with_the_reason(train, capsys):
    for restart in range(3):
        assert ask("start", train, restart=restart) == EXIT_DONE
        write_outcome(train.directory, STOPPED)
        last = ask("end", train, "--warned", "yes", "--state", "RUNNING")
        assert last == (EXIT_STOPPED if restart < 2 else EXIT_FAILED)
    assert "train: failed: started 3 times in a row without saving anything new" in capsys.readouterr().out
    assert [attempt.ending for attempt in read_job_attempts(train.directory)] == ["requeued", "requeued", "failed"]


def test_what_is_saved_starts_the_count_anew(train):
    for restart in range(5):
        assert ask("start", train, restart=restart) == EXIT_DONE
        save(train, restart + 1)
        write_outcome(train.directory, STOPPED)
        assert ask("end", train, "--warned", "yes", "--state", "RUNNING") == EXIT_STOPPED


def test_attempts_that_had_no_time_to_say_anything_count_too(train, capsys):
    for restart in range(3):
        assert ask("start", train, restart=restart) == EXIT_DONE
    assert ask("start", train, restart=3) == EXIT_FAILED
    assert "started 3 times in a row" in capsys.readouterr().out


def test_another_job_starts_with_a_count_of_its_own(train):
    for restart in range(3):
        ask("start", train, restart=restart)
    assert ask("start", train, SLURM_JOB_ID="13") == EXIT_DONE


def test_crashes_are_counted_over_the_attempts_of_a_job(train):
    codes = []
    for restart in range(3):
        ask("start", train, restart=restart)
        save(train, restart + 1)
        codes.append(ask("end", train, "--code", "1", "--state", "RUNNING", SENET154_REQUEUE_ON_FAILURE="2"))
    assert codes == [EXIT_STOPPED, EXIT_STOPPED, EXIT_FAILED]


def test_a_finished_stage_is_done_whatever_srun_says(train):
    ask("start", train)
    write_manifest(train.directory, Manifest("train", train.key, {}, {}, {}, {}, {}))
    assert ask("end", train, "--code", "1", "--warned", "yes", "--state", "RUNNING") == EXIT_DONE


def test_an_earlier_attempt_s_note_is_not_taken_for_this_one_s(train):
    train.directory.mkdir()
    write_outcome(train.directory, STOPPED)
    assert ask("start", train) == EXIT_DONE
    assert read_outcome(train.directory) is None


def test_a_stage_that_another_process_works_on_is_left_alone(train, capsys):
    train.directory.mkdir()
    with exclusive(train.directory):
        assert ask("start", train) == EXIT_USER_ERROR
    assert "another process works here (pid" in capsys.readouterr().err
    assert not (train.directory / HISTORY).exists()


def test_a_config_that_was_edited_between_two_attempts_is_refused_with_both_stages(train, tmp_path, capsys):
    changed = small_recipe(tmp_path, optim={"lr": 0.5})
    write_run_config(tmp_path, changed)
    assert ask("start", train, restart=1) == EXIT_USER_ERROR
    now = place_stages(changed, tmp_path, STAGES)["train"].directory.name
    assert f"another stage: train-{train.key} then, {now} now" in capsys.readouterr().err
    assert not train.directory.exists()


def test_a_config_that_differs_only_in_how_it_is_carried_out_is_accepted(train, tmp_path):
    write_run_config(tmp_path, small_recipe(tmp_path, tracking={"log_every_steps": 1}))
    assert ask("start", train) == EXIT_DONE


def test_a_run_directory_that_vanished_ends_the_job_with_a_message(train, tmp_path, capsys):
    (tmp_path / "config.yaml").unlink()
    assert ask("end", train, "--state", "RUNNING") == EXIT_USER_ERROR
    assert "config.yaml: must be there" in capsys.readouterr().err


def test_a_stage_directory_that_vanished_while_it_ran_is_said_by_name(train, capsys):
    assert ask("end", train, "--code", "1", "--state", "RUNNING") == EXIT_USER_ERROR
    assert f"{train.directory}: this folder was there when the job started, and is gone" in capsys.readouterr().err


def test_a_torn_line_of_the_history_is_passed_over(train):
    ask("start", train)
    with (train.directory / HISTORY).open("a") as file:
        file.write('{"ending": "requ')
    (only,) = read_job_attempts(train.directory)
    assert only.ending is None
    ask("start", train, restart=1)
    assert [attempt.restart for attempt in read_job_attempts(train.directory)] == [0, 1]
