"""One process on one node: what stops a job, what brings it back, and what does not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runs.outcome import read_outcome
from tests.cluster.runs import PATIENCE, ClusterRun
from tests.cluster.slurm import wait_until

NewRun = Callable[..., ClusterRun]


def kill_rank(run: ClusterRun, stage: str) -> None:
    os.kill(run.rank_zero(stage), signal.SIGKILL)


@pytest.fixture(scope="module")
def stopped(new_run: NewRun, prepared: Path) -> ClusterRun:
    """A run whose training was asked to stop by SIGTERM alone, and then by its time limit."""
    run = new_run(prepared)
    submitted = run.submit("--only", "train")
    assert submitted.code == 0, submitted.output
    run.wait_for_step_after(run.wait_for_life("train", 1), 3)
    # What a cluster without a warning signal does: SIGTERM to all of the job, and SIGKILL later.
    with run.held("train"):
        run.cluster.command("scancel", "--full", "--signal=TERM", run.job_id("train"))
    run.wait_for_restart("train", 1)

    run.wait_for_step_after(run.wait_for_life("train", 2), 2)
    # Held, so that training does not end before Slurm looks at the clock, which it does every half minute.
    with run.held("train"):
        run.cluster.command("scontrol", "update", f"JobId={run.job_id('train')}", "TimeLimit=1")
        wait_until(lambda: run.log("train").count("asked to stop") == 2, PATIENCE, "the time limit's warning")
    run.wait_for_restart("train", 2)
    run.cluster.command("scontrol", "update", f"JobId={run.job_id('train')}", "TimeLimit=10")
    run.wait_for_state("train", "COMPLETED", "FAILED", "TIMEOUT")
    return run


def test_sigterm_alone_and_the_time_limit_are_survived_without_a_lost_step(stopped: ClusterRun) -> None:
    steps = stopped.manifest("train").metrics["global_step"]
    assert stopped.steps() == list(range(1, steps + 1))
    assert stopped.job("train").restarts == 2
    assert stopped.log("train").count("going on after step") == 2


def test_a_crash_is_not_requeued_and_takes_its_dependents_out_of_the_queue(new_run: NewRun, prepared: Path) -> None:
    run = new_run(prepared)
    run.submit()
    kill_rank(run, "train")
    run.wait_for_state("train", "FAILED")
    assert run.job("train").restarts == 0
    for stage in ("evaluate", "fuse", "report"):
        run.wait_for_state(stage, "CANCELLED")
    status = run.status()
    assert "failed" in status
    assert "killed by signal 9" in status


def test_requeue_on_failure_gives_a_crash_so_many_more_lives_and_another_world_size_goes_on(
    new_run: NewRun, prepared: Path
) -> None:
    run = new_run(prepared, requeue_on_failure=1)
    run.submit("--only", "train")
    for life in (1, 2):
        run.wait_for_step_after(run.wait_for_life("train", life), 5)
        kill_rank(run, "train")
    run.wait_for_state("train", "FAILED")
    assert run.job("train").restarts == 1
    assert "that was crash 2 of at most 2" in run.log("train")

    refused = run.with_profile(nodes=2, tasks=4).submit("--only", "train", "resources.processes=1")
    assert refused.code == 0, refused.output
    run.wait_for_state("train", "FAILED")
    assert "6 images per forward pass (1 processes), now it would be 3 (8 processes)" in run.log("train")

    again = run.with_profile(nodes=2, tasks=1).submit("--only", "train", "resources.processes=1")
    assert "2 processes x 6 images x 2 accumulation steps" in again.output
    run.wait_for_state("train", "COMPLETED")
    assert "going on with world_size 1 -> 2: the images and their order stay exactly the same" in run.log("train")
    assert run.steps() == list(range(1, run.manifest("train").metrics["global_step"] + 1))


def test_a_job_that_never_gets_further_ends_with_the_reason(new_run: NewRun, prepared: Path) -> None:
    run = new_run(prepared)
    run.submit("--from", "train")
    for life in (1, 2, 3):
        run.wait_for_life("train", life)
        run.cluster.command("scontrol", "requeue", run.job_id("train"))
        run.wait_for_restart("train", life)
    run.wait_for_state("train", "FAILED")
    assert "started 3 times in a row without saving anything new" in run.log("train")
    assert "started 3 times in a row" in run.status()
    run.wait_for_state("report", "CANCELLED")


def test_a_config_edited_between_two_lives_is_refused(new_run: NewRun) -> None:
    run = new_run()
    run.submit("--only", "build")
    run.wait_for_life("build", 1)
    run.cluster.command("scontrol", "requeue", run.job_id("build"))
    path = run.directory / "config.yaml"
    path.write_text(path.read_text().replace("seed: 11", "seed: 12"))
    run.wait_for_state("build", "FAILED")
    (log,) = run.directory.glob("jobs/build-*.log")
    assert "has changed since this job was submitted" in log.read_text()


def test_a_second_job_on_a_stage_is_refused_and_the_first_one_unharmed(new_run: NewRun, prepared: Path) -> None:
    run = new_run(prepared)
    run.submit("--only", "train")
    began = run.wait_for_life("train", 1)
    run.wait_for_step_after(began)
    (script,) = run.directory.glob("jobs/train-*.sbatch")
    with run.held("train"):
        second = run.cluster.command("sbatch", "--parsable", str(script)).strip()
        wait_until(lambda: run.cluster.job(second).state == "FAILED", PATIENCE, "the second job's end")
    (log,) = run.directory.glob(f"jobs/train-*-{second}.log")
    assert "another process works here" in log.read_text()
    run.wait_for_state("train", "COMPLETED")
    assert read_outcome(run.stage("train").directory) is None


def test_evaluation_alone_scores_a_weight_file_with_two_processes(new_run: NewRun, prepared: Path) -> None:
    run = new_run(prepared, nodes=2)
    (weights,) = prepared.glob("build-*/weights.safetensors")
    submitted = run.submit("--only", "evaluate", f"evaluate.weights={weights}", "--accept-changes")
    assert submitted.code == 0, submitted.output
    run.wait_for_state("evaluate", "COMPLETED")
    results = json.loads((run.stage("evaluate").directory / "results.json").read_text())
    assert results["weights"]["path"] == str(weights)
    assert results["images"] == 20


def test_cancel_ends_the_chain_and_a_later_submit_begins_again(new_run: NewRun, prepared: Path) -> None:
    run = new_run(prepared)
    run.submit()
    run.wait_for_life("train", 1)
    cancelled = run.launch("cancel", run.directory)
    assert cancelled.code == 0, cancelled.output
    for stage in ("train", "evaluate", "fuse", "report"):
        run.wait_for_state(stage, "CANCELLED", "FAILED")
    assert run.job("train").restarts == 0
    assert "train: job" in run.launch("logs", run.directory, "train").output
    first = run.job_id("train")
    again = run.submit()
    assert again.code == 0, again.output
    assert run.job_id("train") != first
    run.launch("cancel", run.directory)
