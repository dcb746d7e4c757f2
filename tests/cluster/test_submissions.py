"""Where a job is submitted from, and what a site lets into it, make no difference to it."""

from __future__ import annotations

from tests.cluster.runs import ClusterRun
from tests.cluster.submissions import Nested

STARTED = "rank 0 of 1, local rank 0 on"


def test_a_job_submitted_by_a_task_of_another_one_is_itself_and_comes_back_alone(nested: Nested) -> None:
    log, job = nested.run.log("train"), nested.run.job_id("train")
    assert f"train: job {job} on" in log, nested.printed
    assert STARTED in log
    assert nested.run.job("train").restarts == 1
    assert (nested.outer.state, nested.outer.restarts) == ("RUNNING", 0)


def test_a_job_starts_its_stage_where_no_environment_is_let_into_jobs(without_environment: str) -> None:
    assert STARTED in without_environment


def test_a_setup_line_that_fails_ends_the_job_with_its_message(failing_setup: ClusterRun) -> None:
    log = failing_setup.log("train")
    assert "module: command not found" in log
    assert "this setup line of the profile ended with code 127: module load cuda/99" in log
    assert f"{failing_setup.log_path('train')} says why" in failing_setup.status()
