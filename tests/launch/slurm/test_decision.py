"""Whether a job comes back, by what is known when it ends."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from launch.slurm.decision import (
    MAX_INTERRUPTIONS_WITHOUT_PROGRESS,
    MAX_RESTARTS_WITHOUT_PROGRESS,
    JobEnd,
    Verdict,
    decide,
    no_progress,
)
from launch.slurm.job_attempts import Ending, JobAttempt
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.running.attempts import Outcome

STOPPED = Outcome(EXIT_STOPPED, "stopped after step 7", 0)
END = JobEnd(
    is_done=False, outcome=None, code=0, nodes_answer=True, was_warned=False, state="RUNNING", is_requeued=False
)


def attempt(saved: str = "nothing", ending: Ending | None = None, reason: str = "") -> JobAttempt:
    return JobAttempt("12", 0, 0.0, saved, ending=ending, reason=reason)


def judge(idle: int = 0, crashes: int = 0, allowed_crashes: int = 0, **known: Any) -> Verdict:
    """The verdict on a job whose attempts before this one crashed, or stopped without having saved anything."""
    before = [attempt(str(number), "requeued", "crashed (once more)") for number in range(crashes)]
    before += [attempt("something", "requeued", "stopped")] * idle
    return decide(dataclasses.replace(END, **known), [*before, attempt("something")], "something", allowed_crashes)


@pytest.mark.parametrize(
    ("known", "exit_code", "reason"),
    [
        ({"is_done": True, "outcome": STOPPED}, EXIT_DONE, "done"),
        ({"outcome": STOPPED}, EXIT_STOPPED, "stopped after step 7"),
        ({"was_warned": True, "code": 140}, EXIT_STOPPED, "stopped before it had begun"),
        ({"outcome": STOPPED, "idle": 1}, EXIT_STOPPED, "stopped after step 7"),
        ({"outcome": STOPPED, "idle": 2}, EXIT_FAILED, "started 3 times in a row without saving anything new"),
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
        ({"code": 137, "nodes_answer": False, "idle": 3}, EXIT_FAILED, "without saving .* does not answer"),
        ({"code": 137}, EXIT_FAILED, "killed by signal 9 without a word"),
        ({"code": 1}, EXIT_FAILED, "srun ended with code 1 and no process recorded why; see above"),
        ({"code": 129}, EXIT_FAILED, "killed by signal 1 without a word"),
        ({"code": 128}, EXIT_FAILED, "srun ended with code 128 and no process"),
        ({"code": 2}, EXIT_FAILED, "srun ended with code 2 and no process recorded why; see above"),
        ({"code": 137, "allowed_crashes": 2}, EXIT_STOPPED, r"crashed \(1 of at most 2 times.*killed by signal 9"),
        ({"code": 137, "allowed_crashes": 2, "crashes": 2}, EXIT_FAILED, "that was crash 3 of at most 3"),
        ({"code": 137, "allowed_crashes": 9, "idle": 3}, EXIT_FAILED, "without saving anything new"),
        ({"outcome": Outcome(EXIT_USER_ERROR, "bad", 0), "allowed_crashes": 2}, EXIT_USER_ERROR, "rank 0: bad"),
    ],
)
def test_a_stopped_job_comes_back_and_a_failed_one_does_not(known, exit_code, reason):
    verdict = judge(**known)
    assert verdict.exit_code == exit_code
    assert verdict.ending == {EXIT_DONE: "done"}.get(exit_code, verdict.ending)
    assert (verdict.ending == "failed") == (exit_code not in (EXIT_DONE, EXIT_STOPPED))
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
    verdict = judge(outcome=outcome, code=137, state="COMPLETING", is_requeued=True)
    assert (verdict.ending, verdict.reason) == ("interrupted", reason)
    assert verdict.exit_code not in (EXIT_DONE, EXIT_STOPPED), "the body would end well, or requeue it a second time"


def test_only_attempts_since_the_last_progress_count():
    idle = [attempt("nothing", "requeued")] * MAX_RESTARTS_WITHOUT_PROGRESS
    assert no_progress([], "nothing") is None
    assert no_progress(idle[1:], "nothing") is None
    assert "started 3 times in a row" in str(no_progress(idle, "nothing"))
    assert no_progress(idle, "a checkpoint") is None
    assert no_progress([*idle, attempt("a checkpoint", "requeued")], "a checkpoint") is None


def test_a_crash_on_a_dead_node_is_no_end_of_the_job_s_own():
    assert judge(code=137, nodes_answer=False).ending == "interrupted"


@pytest.mark.parametrize("ending", ["interrupted", None])
def test_what_slurm_ends_does_not_count_as_a_restart_without_progress(ending):
    """Requeued by SLURM twice and a node failure, all before the first step: the job goes on."""
    ended = [attempt("nothing", ending)] * (MAX_INTERRUPTIONS_WITHOUT_PROGRESS - 1)
    assert no_progress(ended, "nothing") is None
    given_up = str(no_progress([*ended, attempt("nothing", ending)], "nothing"))
    assert f"interrupted {MAX_INTERRUPTIONS_WITHOUT_PROGRESS} times in a row" in given_up
    assert "preempted less" in given_up
    assert "time limit" not in given_up, "that is the advice for a job that ends by itself"
