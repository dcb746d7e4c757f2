"""What a job body is answered at its start and at its end, and what is recorded of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.slurm.job_attempts import progress, read_job_attempts
from launch.slurm.requeue import main
from pipeline.config.reader import write_run_config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.ground.ranks import Ranks
from pipeline.running.attempts import ATTEMPTS, Outcome, note_end, note_start, read_attempts
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.lock import exclusive
from pipeline.store.seal import seal_directory, seal_file
from stages import STAGES
from tests.recipes import small_recipe

STOPPED = Outcome(EXIT_STOPPED, "stopped after step 7", 0)
CRASHED = Outcome(EXIT_FAILED, "no memory", 3)


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], PlacedStage]:
    """Gives a stage of a run in which nothing has begun."""
    config = small_recipe(tmp_path)
    write_run_config(tmp_path, config)
    return place_stages(config, tmp_path, STAGES).__getitem__


@pytest.fixture
def train(place: Callable[[str], PlacedStage]) -> PlacedStage:
    return place("train")


def ask(moment: str, stage: PlacedStage, *options: str, restart: int = 0, job: str = "12", **variables: str) -> int:
    environment = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_RESTART_COUNT": str(restart)}
    arguments = [moment, stage.name, "--run", str(stage.directory.parent), "--key", stage.key, "--job", job, *options]
    return main(arguments, environment | variables)


def work(directory: Path, outcome: Outcome | None = None) -> None:
    """Record what a stage's main rank does of an attempt; None: it had no time to say how it ended."""
    directory.mkdir(exist_ok=True)
    note_start(directory, Ranks())
    if outcome is not None:
        note_end(directory, outcome)


def save(stage: PlacedStage, step: int) -> None:
    directory = stage.directory / "checkpoints" / f"step-{step:08d}"
    directory.mkdir(parents=True)
    seal_directory(directory, "checkpoint", {}, [])


def test_a_restart_that_squeue_counts_and_this_attempt_does_not_is_slurm_s_own(train, capsys):
    ask("start", train, restart=1)
    assert ask("end", train, "--state", "COMPLETING", "--restarts", "1", restart=1) == EXIT_FAILED
    assert ask("end", train, "--state", "COMPLETING", "--restarts", "2", restart=1) == EXIT_FAILED
    failed, interrupted = capsys.readouterr().out.splitlines()[-2:]
    assert "train: failed: srun ended with code 0" in failed
    assert "train: interrupted: by SLURM itself" in interrupted


def test_each_attempt_of_a_job_says_where_it_runs_and_which_restart_it_is(train, capsys):
    ask("start", train)
    ask("start", train, restart=2)
    first, third = capsys.readouterr().out.splitlines()
    assert first.endswith(" train: job 12 on n[1-2]")
    assert third.endswith(" train: job 12 on n[1-2], restart 2")


@pytest.mark.parametrize(("code", "asked"), [(0, 0), (1, 1), (2, 1), (137, 1)])
def test_nodes_are_asked_whether_they_answer_only_after_a_crash(train, monkeypatch, code, asked):
    asks: list[object] = []
    monkeypatch.setattr("launch.slurm.requeue.all_nodes_answer", asks.append)
    ask("start", train)
    ask("end", train, "--code", str(code), "--state", "RUNNING")
    assert len(asks) == asked


def test_progress_is_whatever_is_sealed_in_any_part(place):
    prepare = place("prepare")
    seen = {progress(prepare, None)}
    assert seen == {"nothing"}
    assert len(prepare.parts) > 1
    for part in prepare.parts:
        (part.directory / "scan").mkdir(parents=True)
        for name in ("scan/a.json", "scan/b.json", "scores-center.npy"):
            (part.directory / name).touch()
            (part.directory / f".tmp-7-{Path(name).stem}.seal.json").touch()
            assert progress(prepare, None) in seen, "a file without a seal is not saved"
            seal_file(part.directory / name, "chunk", {})
            assert progress(prepare, None) not in seen
            seen.add(progress(prepare, None))
        seal_directory(part.directory, "stage", {}, [])
        assert progress(prepare, None) not in seen
        seen.add(progress(prepare, None))


def test_a_checkpoint_that_takes_the_place_of_an_older_one_is_progress(train):
    save(train, 4)
    before = progress(train, None)
    (train.directory / "checkpoints" / "step-00000004").rename(train.directory / "checkpoints" / "step-00000008")
    assert progress(train, None) not in (before, "nothing")


def test_shards_are_progress_wherever_they_are_written(place, tmp_path):
    prepare, shards = place("prepare"), tmp_path / "scratch"
    assert progress(prepare, str(shards)) == "nothing"
    shards.mkdir()
    (shards / "train-00000.tar").touch()
    assert progress(prepare, str(shards)) == "nothing"
    seal_file(shards / "train-00000.tar", "shard", {})
    assert progress(prepare, str(shards)) != "nothing"


def test_a_job_that_is_stopped_again_and_again_without_saving_fails_with_the_reason(train, capsys):
    for restart in range(3):
        assert ask("start", train, restart=restart) == EXIT_DONE
        work(train.directory, STOPPED)
        last = ask("end", train, "--warned", "yes", "--state", "RUNNING", restart=restart)
        assert last == (EXIT_STOPPED if restart < 2 else EXIT_FAILED)
    assert "train: failed: started 3 times in a row without saving anything new" in capsys.readouterr().out
    assert [attempt.ending for attempt in read_job_attempts(train)] == ["requeued", "requeued", "failed"]


def test_what_is_saved_starts_the_count_anew(train):
    for restart in range(5):
        assert ask("start", train, restart=restart) == EXIT_DONE
        save(train, restart + 1)
        work(train.directory, STOPPED)
        assert ask("end", train, "--warned", "yes", "--state", "RUNNING", restart=restart) == EXIT_STOPPED


def test_attempts_that_had_no_time_to_say_anything_are_bounded_too(train, capsys):
    restarts = 0
    while ask("start", train, restart=restarts) == EXIT_DONE:
        restarts += 1
        assert restarts < 100
    assert f"train: failed: interrupted {restarts} times in a row" in capsys.readouterr().out


def test_another_job_starts_with_a_count_of_its_own(train):
    restart = 0
    while ask("start", train, restart=restart) == EXIT_DONE:
        restart += 1
    assert ask("start", train, job="13") == EXIT_DONE


def test_crashes_are_counted_over_the_attempts_of_a_job(train):
    codes = []
    for restart in range(3):
        ask("start", train, restart=restart)
        save(train, restart + 1)
        codes.append(
            ask("end", train, "--code", "1", "--state", "RUNNING", restart=restart, SENET154_REQUEUE_ON_FAILURE="2")
        )
    assert codes == [EXIT_STOPPED, EXIT_STOPPED, EXIT_FAILED]


def test_a_finished_stage_is_done_whatever_srun_says(train):
    ask("start", train)
    seal_directory(train.directory, "stage", {}, [])
    assert ask("end", train, "--code", "1", "--warned", "yes", "--state", "RUNNING") == EXIT_DONE


def test_the_exit_code_2_of_srun_is_not_taken_for_a_refusal(train, capsys):
    ask("start", train)
    end = ("end", train, "--code", "2", "--state", "RUNNING")
    assert ask(*end, SENET154_REQUEUE_ON_FAILURE="1") == EXIT_STOPPED
    assert "crashed (1 of at most 1 times that it is started again): srun ended with code 2" in capsys.readouterr().out


def test_an_earlier_attempt_s_outcome_is_not_taken_for_this_one_s(train, capsys):
    work(train.directory, STOPPED)
    assert ask("start", train) == EXIT_DONE
    assert ask("end", train, "--code", "137", "--state", "RUNNING") == EXIT_FAILED
    assert "killed by signal 9 without a word" in capsys.readouterr().out


def test_a_rank_that_ended_before_the_main_one_had_started_says_why(train, capsys):
    assert ask("start", train) == EXIT_DONE
    note_end(train.directory, Outcome(EXIT_USER_ERROR, "no such device", 1))
    work(train.directory)
    assert ask("end", train, "--code", "137", "--state", "RUNNING") == EXIT_USER_ERROR
    assert "train: failed: rank 1: no such device" in capsys.readouterr().out


def test_an_attempt_that_finishes_one_part_and_fails_in_the_next_is_told_by_the_next(place, capsys):
    prepare = place("prepare")
    first, second = prepare.parts
    work(second.directory, STOPPED)
    assert ask("start", prepare) == EXIT_DONE
    work(first.directory, Outcome(EXIT_DONE, "done", 0))
    seal_directory(first.directory, "stage", {}, [])
    work(second.directory, CRASHED)
    assert ask("end", prepare, "--code", "1", "--state", "RUNNING") == EXIT_FAILED
    assert "prepare: failed: rank 3: no memory" in capsys.readouterr().out
    assert [attempt.ending for attempt in read_job_attempts(prepare)] == ["failed"]


def test_a_job_s_lines_are_no_attempts_of_the_stage_s_processes(train):
    ask("start", train)
    work(train.directory, STOPPED)
    ask("end", train, "--state", "RUNNING")
    (attempt,) = read_attempts(train.directory)
    assert attempt.outcome == STOPPED


def test_the_lines_of_two_jobs_are_told_apart(train):
    ask("start", train)
    ask("start", train, job="13")
    ask("end", train, "--code", "1", "--state", "RUNNING")
    assert [attempt.ending for attempt in read_job_attempts(train)] == ["failed", None]
    assert [attempt.job for attempt in read_job_attempts(train, "13")] == ["13"]


def test_a_job_is_counted_under_the_name_that_its_own_script_gives_it(train):
    ask("start", train, job="11_3", SLURM_JOB_ID="14")
    ask("start", train, job="12", SLURM_ARRAY_JOB_ID="11", SLURM_ARRAY_TASK_ID="3")
    assert [attempt.job for attempt in read_job_attempts(train)] == ["11_3", "12"]


def test_a_stage_that_another_run_of_the_sweep_works_on_is_waited_for(train, tmp_path, monkeypatch, capsys):
    (tmp_path.parent / "shared").mkdir()
    train.directory.symlink_to(tmp_path.parent / "shared")
    (holder := exclusive(train.directory)).__enter__()
    monkeypatch.setattr(
        "pipeline.store.lock.time.sleep", lambda seconds: seconds > 1 and holder.__exit__(None, None, None)
    )
    assert ask("start", train) == EXIT_DONE
    waiting, started = capsys.readouterr().out.splitlines()
    assert f"waiting for pid {os.getpid()} on {os.uname().nodename}, at work in {train.directory}" in waiting
    assert started.endswith(" train: job 12 on n[1-2]")


def test_a_job_that_is_asked_to_stop_while_it_waits_for_another_run_of_the_sweep_comes_back(
    train, tmp_path, monkeypatch, capsys
):
    (tmp_path / "of_the_sweep").mkdir()
    train.directory.symlink_to(tmp_path / "of_the_sweep")
    monkeypatch.setattr(
        "pipeline.store.lock.time.sleep", lambda seconds: seconds > 1 and os.kill(os.getpid(), signal.SIGUSR2)
    )
    with exclusive(train.directory):
        assert ask("start", train) == EXIT_STOPPED
    assert "train: stopped by SIGUSR2 while waiting" in capsys.readouterr().out
    assert ask("end", train, "--code", "75", "--warned", "yes", "--state", "RUNNING") == EXIT_STOPPED
    assert "train: requeued: stopped before it had begun" in capsys.readouterr().out


def test_a_stage_that_another_process_works_on_is_left_alone(train, capsys):
    train.directory.mkdir()
    with exclusive(train.directory):
        assert ask("start", train) == EXIT_USER_ERROR
    assert "another process works here (pid" in capsys.readouterr().err
    assert not (train.directory / ATTEMPTS).exists()


def test_a_config_that_was_edited_between_two_attempts_is_refused_with_both_stages(train, tmp_path, capsys):
    changed = small_recipe(tmp_path, optim={"lr": 0.5})
    write_run_config(tmp_path, changed)
    assert ask("start", train, restart=1) == EXIT_USER_ERROR
    now = place_stages(changed, tmp_path, STAGES)["train"].key
    assert f"another stage: train-{train.key} then, train-{now} now" in capsys.readouterr().err
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


def test_a_record_that_cannot_be_written_is_no_failure_of_a_stage_that_is_sealed(train, monkeypatch, capsys):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(train.directory / ATTEMPTS))

    ask("start", train)
    seal_directory(train.directory, "stage", {}, [])
    monkeypatch.setattr("launch.slurm.requeue.note_job_end", fail)
    assert ask("end", train, "--state", "RUNNING") == EXIT_DONE
    assert f"could not be recorded: {train.directory / ATTEMPTS}: no space left" in capsys.readouterr().out


def test_a_full_disk_at_the_start_is_named(train, monkeypatch, capsys):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(train.directory / ATTEMPTS))

    monkeypatch.setattr("launch.slurm.requeue.note_job", fail)
    assert ask("start", train) == EXIT_USER_ERROR
    assert f"train: {train.directory / ATTEMPTS}: no space left" in capsys.readouterr().err


def test_a_torn_line_of_the_record_is_passed_over(train):
    ask("start", train)
    with (train.directory / ATTEMPTS).open("a") as file:
        file.write('{"kind": "job_end", "ending": "requ')
    (only,) = read_job_attempts(train)
    assert only.ending is None
    ask("start", train, restart=1)
    assert [attempt.restart for attempt in read_job_attempts(train)] == [0, 1]
