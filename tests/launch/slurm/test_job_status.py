from __future__ import annotations

import dataclasses

import pytest

from launch.slurm import scheduler
from launch.slurm.job_attempts import JobAttempt
from launch.slurm.job_status import RunJobs, jobs_of, with_job
from launch.slurm.jobs import JobRecord, write_jobs
from launch.slurm.scheduler import QueuedJob
from launch.state import StageState
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.recipes import small_recipe

RECORD = JobRecord("evaluate", "0123456789", "11", "p.yaml", 1.0, ("7", "10"), "/runs/demo/jobs/evaluate.log")
STAGE_OF = {"10": "freeze_bn", "11": "evaluate"}
WAITING = StageState("waiting", "for freeze_bn")
FIRST = JobAttempt("11", 0, 1.0, "nothing", ending="requeued", reason="stopped after step 7")
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
            "job 11 on n[1-2], 1 min 33 s of 30 min",
        ),
        (
            StageState("running", "pid 7 on n1"),
            QueuedJob("11", "RUNNING", "n[1-2]", "1:33", "30:00"),
            [FIRST, SILENT],
            "running",
            "job 11 on n[1-2], 1 min 33 s of 30 min\ninterrupted once; the last time: stopped after step 7",
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
        (
            WAITING,
            QueuedJob("11", "FAILED", reason="NonZeroExitCode"),
            [],
            "failed",
            f"job 11 ended as FAILED (NonZeroExitCode); {RECORD.log} says why",
        ),
        (WAITING, None, [], "to run", "job 11 is no longer known to SLURM"),
        (StageState("done", "at noon"), QueuedJob("11", "COMPLETING", "n1"), [FIRST], "done", "at noon"),
    ],
)
def test_files_and_queue_are_merged_into_one_state(state, queued, attempts, condition, detail):
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
    assert found.detail == "job 11 on n1, 1.0 s of 30 min"


def test_only_a_stage_that_was_submitted_has_the_state_of_a_job(tmp_path, monkeypatch):
    placed = place_stages(small_recipe(tmp_path), tmp_path, STAGES)
    train, evaluate = placed["train"], placed["evaluate"]
    write_jobs(tmp_path, [JobRecord("train", train.key, "11", "p.yaml", 1.0, (), "/log")])
    asked: list[str] = []

    def look_up(jobs):
        asked.extend(jobs)
        return {job: QueuedJob(job, "PENDING", reason="Resources") for job in jobs}

    monkeypatch.setattr(scheduler, "look_up", look_up)
    jobs = jobs_of({tmp_path: placed})[tmp_path]
    assert asked == ["11"]
    assert (jobs.profile, jobs.is_alive) == ("p.yaml", True)
    assert jobs.with_job(train, WAITING) == StageState("queued", "job 11: Resources")
    assert jobs.with_job(evaluate, WAITING) is WAITING


def test_a_job_waits_for_those_of_its_stages_that_are_not_done(tmp_path):
    placed = place_stages(small_recipe(tmp_path), tmp_path, STAGES)
    records = [
        JobRecord(name, placed[name].key, job, "p.yaml", 1.0, waits_for, "/log")
        for name, job, waits_for in (("prepare", "1", ()), ("build", "2", ()), ("train", "3", ("1", "2")))
    ]
    waiting = {"3": QueuedJob("3", "PENDING", reason="Dependency")}
    state = RunJobs(records, waiting, ["build", "train"]).with_job(placed["train"], WAITING)
    assert state.detail == "job 3 waits for build (2)"


def test_a_job_of_another_key_says_nothing_about_a_stage(tmp_path):
    train = place_stages(small_recipe(tmp_path), tmp_path, STAGES)["train"]
    record = JobRecord("train", "another", "11", "p.yaml", 1.0, (), "/log")
    jobs = RunJobs([record], {"11": QueuedJob("11", "RUNNING", "n1", "0:01", "30:00")}, ["train"])
    assert jobs.with_job(train, WAITING) is WAITING


def test_without_an_answer_of_slurm_s_a_stage_has_its_state_on_disk(tmp_path):
    train = place_stages(small_recipe(tmp_path), tmp_path, STAGES)["train"]
    record = JobRecord("train", train.key, "11", "p.yaml", 1.0, (), "/log")
    assert RunJobs([record], {}, ["train"], problem="no answer").with_job(train, WAITING) is WAITING
