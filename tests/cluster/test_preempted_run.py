"""A run whose training is interrupted in every way ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.running.attempts import read_attempts
from pipeline.store.seal import read_seal
from tests.cluster.preempted import Chronicle
from tests.cluster.runs import ClusterRun


def test_the_weights_are_those_of_the_uninterrupted_run(preempted: Chronicle, uninterrupted: Path) -> None:
    assert [interruption.kind for interruption in preempted.interruptions] == ["signal", "requeue", "node"]
    (train,) = uninterrupted.glob("train-*")
    expected = read_seal(train, "stage")
    assert expected is not None
    seal = preempted.run.seal("train")
    assert read_attempts(preempted.run.stage("train").directory)[-1].world_size == 4
    assert seal.files["weights.safetensors"] == expected.files["weights.safetensors"]


def test_no_step_is_lost_after_a_warning_and_each_is_on_record_once(preempted: Chronicle) -> None:
    for interruption in preempted.interruptions:
        lost = interruption.last_step - interruption.saved_step
        assert (lost == 0) if interruption.kind != "node" else (0 <= lost < 4), interruption
    steps = preempted.run.seal("train").about["metrics"]["global_step"]
    assert preempted.run.steps() == list(range(1, steps + 1))


def test_the_job_keeps_its_id_and_its_dependents_wait_over_all_its_attempts(preempted: Chronicle) -> None:
    assert preempted.run.job("train").restarts == 3
    for interruption in preempted.interruptions:
        assert (interruption.dependent.state, interruption.dependent.reason) == ("PENDING", "Dependency")
    assert all(stage.is_done for stage in preempted.run.stages().values())


def test_submit_prints_all_jobs_and_a_second_submit_adds_nothing(preempted: Chronicle) -> None:
    assert preempted.submitted.code == 0, preempted.submitted.output
    for stage in preempted.run.stages():
        assert preempted.run.job_id(stage) in preempted.submitted.output
    assert preempted.submitted_again.code == 0
    assert "nothing new to submit" in preempted.submitted_again.output


def test_status_tells_of_each_phase(preempted: Chronicle) -> None:
    assert "running" in preempted.statuses["running"]
    assert "interrupted once; the last time: stopped on request (SIGUSR2)" in preempted.statuses["preempted"]
    assert "done" in preempted.statuses["done"]


def test_status_that_is_watched_ends_with_the_run(preempted: Chronicle) -> None:
    assert preempted.watched.code == 0, preempted.watched.output
    assert preempted.watched.output.count("again every 5 s; Ctrl-C ends this, not the run") > 1
    assert preempted.watched.output.rstrip().endswith(preempted.statuses["done"].rstrip())


def test_a_log_that_is_followed_has_all_attempts_of_the_job(preempted: Chronicle) -> None:
    assert preempted.followed.code == 0
    assert preempted.followed.output == preempted.run.log("train")
    assert preempted.followed.output.count(", restart ") == 3


def test_no_attempt_is_called_failed(preempted: Chronicle) -> None:
    log = preempted.run.log("train")
    assert "train: failed" not in log
    # What `scontrol requeue` ended is back in the queue already, and the job body must not put it there again.
    assert "train: interrupted: by SLURM itself; stopped on request" in log


def test_evaluation_alone_of_a_trained_stage_has_the_same_scores_with_one_process_as_with_two(
    preempted: Chronicle, new_run: Callable[..., ClusterRun]
) -> None:
    run = new_run(preempted.run.directory)
    there = run.stage("evaluate").directory
    expected = hashlib.sha256((there / "scores-center32.npy").read_bytes()).digest()
    shutil.rmtree(there)
    submitted = run.submit("--only", "evaluate")
    assert submitted.code == 0, submitted.output
    run.wait_for_state("evaluate", "COMPLETED")
    assert [read_attempts(one.stage("evaluate").directory)[-1].world_size for one in (preempted.run, run)] == [2, 1]
    assert hashlib.sha256((there / "scores-center32.npy").read_bytes()).digest() == expected


def test_figures_for_the_readme(preempted: Chronicle) -> None:
    for one in preempted.interruptions:
        figures = {
            "to requeued": one.requeued - one.asked,
            "to the next attempt": one.restarted - one.requeued,
            "to its first step": one.first_step - one.restarted,
        }
        print(one.kind, *(f"{seconds:.1f} s {what}" for what, seconds in figures.items()), sep=", ")
        assert all(seconds >= 0 for seconds in figures.values())
    print(preempted.submitted.output, *preempted.statuses.values(), sep="\n")
