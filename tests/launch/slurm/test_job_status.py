from __future__ import annotations

import dataclasses

import pytest

from launch.slurm.job_status import with_job
from launch.slurm.jobs import JobRecord
from launch.slurm.requeue import JobAttempt
from launch.slurm.scheduler import QueuedJob
from launch.state import StageState

RECORD = JobRecord("evaluate", "0123456789", "11", "p.yaml", 1.0, ("7", "10"), "/runs/demo/jobs/evaluate.log")
STAGE_OF = {"10": "freeze_bn", "11": "evaluate"}
WAITING = StageState("waiting", "for freeze_bn")
FIRST = JobAttempt("11", 0, 1.0, "nothing", "requeued", "stopped after step 7")
SILENT = JobAttempt("11", 1, 2.0, "1: step-7")


@pytest.mark.parametrize(
    ("state", "queued", "attempts", "condition", "detail"),
    [
        (WAITING, QueuedJob("11", "PENDING", reason="Dependency"), [], "waiting", "job 11 waits for freeze_bn (10)"),
        (WAITING, QueuedJob("11", "PENDING", reason="Resources"), [], "queued", "job 11: Resources"),
        (
            StageState("running", "pid 7 on n1"),
            QueuedJob("11", "RUNNING", "n[1-2]", "1:33", "30:00"),
            [SILENT],
            "running",
            "job 11 on n[1-2], 1:33 of 30:00",
        ),
        (
            StageState("running", "pid 7 on n1"),
            QueuedJob("11", "RUNNING", "n[1-2]", "1:33", "30:00"),
            [FIRST, SILENT],
            "running",
            "job 11 on n[1-2], 1:33 of 30:00\ninterrupted once; the last time: stopped after step 7",
        ),
        (
            StageState("stopped", "stopped after step 7"),
            QueuedJob("11", "PENDING", reason="BeginTime"),
            [FIRST],
            "requeued",
            "job 11 comes back as soon as SLURM lets it (BeginTime)\n"
            "interrupted once; the last time: stopped after step 7",
        ),
        (
            StageState("killed", "its process ended without a word"),
            QueuedJob("11", "PENDING", reason="BeginTime"),
            [FIRST, SILENT],
            "requeued",
            "job 11 comes back as soon as SLURM lets it (BeginTime)\n"
            "interrupted 2 times; the last time: without a word (killed, or its node failed)",
        ),
        (
            StageState("failed", "rank 0: no memory"),
            QueuedJob("11", "FAILED", "n1", reason="NonZeroExitCode"),
            [dataclasses.replace(SILENT, ending="failed", reason="rank 0: no memory")],
            "failed",
            "job 11: rank 0: no memory",
        ),
        (
            StageState("killed", "its process ended without a word"),
            QueuedJob("11", "TIMEOUT", "n1", reason="TimeLimit"),
            [SILENT],
            "killed",
            "job 11 ended as TIMEOUT (TimeLimit)\nits process ended without a word",
        ),
        (WAITING, QueuedJob("11", "CANCELLED"), [], "to run", "job 11 ended as CANCELLED"),
        (WAITING, None, [], "to run", "job 11 is no longer known to SLURM"),
        (StageState("done", "at noon"), QueuedJob("11", "COMPLETING", "n1"), [FIRST], "done", "at noon"),
    ],
)
def test_files_and_queue_together_say_where_a_stage_stands(state, queued, attempts, condition, detail):
    found = with_job(state, RECORD, queued, attempts, STAGE_OF)
    assert (found.condition, found.detail) == (condition, detail)


def test_a_job_whose_stage_before_is_done_waits_for_the_end_of_that_job():
    found = with_job(WAITING, RECORD, QueuedJob("11", "PENDING", reason="Dependency"), [], {"11": "evaluate"})
    assert (found.condition, found.detail) == ("waiting", "job 11 waits for the job before it to end")


def test_a_job_that_launch_cancelled_says_so():
    cancelled = dataclasses.replace(RECORD, is_cancelled=True)
    assert with_job(WAITING, cancelled, None, [], {}) == StageState("to run", "job 11 was cancelled")
    assert with_job(StageState("killed", ""), cancelled, None, [SILENT], {}).condition == "stopped"


def test_attempts_of_earlier_jobs_are_not_counted():
    earlier = dataclasses.replace(FIRST, job="5")
    found = with_job(WAITING, RECORD, QueuedJob("11", "RUNNING", "n1", "0:01", "30:00"), [earlier, SILENT], {})
    assert found.detail == "job 11 on n1, 0:01 of 30:00"
