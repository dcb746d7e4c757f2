"""The rule by which a job is requeued or ends for good: pure functions of the facts at its end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from launch.slurm.job_attempts import Ending, JobAttempt
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from pipeline.running.attempts import Outcome

MAX_RESTARTS_WITHOUT_PROGRESS = 3
"""Limit of attempts in a row that end by themselves without saving anything newer; then the job fails."""
MAX_INTERRUPTIONS_WITHOUT_PROGRESS = 20
"""Limit of attempts in a row that end in any way without saving anything newer. Far higher, since an end by SLURM or a
dead node says nothing against the job."""
_CRASHED = "crashed"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The fate of a job."""

    exit_code: int
    """Exit code of the job; 75 has its body requeue it."""
    ending: Ending
    reason: str


@dataclasses.dataclass(frozen=True)
class JobEnd:
    """The facts when srun has ended."""

    is_done: bool
    """Whether the stage is sealed."""
    outcome: Outcome | None
    """The outcome recorded by the stage's processes."""
    code: int
    """srun's exit code."""
    nodes_answer: bool
    """Whether all nodes of the job answer."""
    was_warned: bool
    """Whether the job received a request to stop."""
    state: str
    """The job's state in squeue."""
    is_requeued: bool
    """Whether SLURM has already requeued it (`scontrol requeue`, a node that failed)."""


def decide(end: JobEnd, attempts: Sequence[JobAttempt], saved: str, allowed_crashes: int) -> Verdict:
    """Decide whether the job is requeued.

    `attempts` are the job's, the last one being that of `end`; `saved` is the stage's present progress.
    """
    if end.is_done:
        return Verdict(EXIT_DONE, "done", "done")
    if end.is_requeued:
        reason = f"killed, or ended with code {end.code}" if end.outcome is None else end.outcome.message
        # The job is back in the queue already: with 75 its body would put it there a second time.
        return Verdict(EXIT_FAILED, "interrupted", f"by SLURM itself; {reason}")
    verdict = _without_history(end)
    if verdict.ending == "failed":
        crashes = sum(attempt.reason.startswith(_CRASHED) for attempt in attempts)
        if verdict.exit_code == EXIT_USER_ERROR or crashes >= allowed_crashes:
            limit = f"; that was crash {crashes + 1} of at most {allowed_crashes + 1}" if crashes else ""
            return Verdict(verdict.exit_code, "failed", f"{verdict.reason}{limit}")
        again = f"{_CRASHED} ({crashes + 1} of at most {allowed_crashes} times that it is started again)"
        verdict = Verdict(EXIT_STOPPED, "requeued", f"{again}: {verdict.reason}")
    if end.state != "RUNNING":
        # Cancelled or out of time: a restart would be against somebody's will.
        gone = f"not requeued from here, since SLURM has the job as {end.state or 'gone'}"
        return Verdict(EXIT_FAILED, "failed", f"{verdict.reason}; {gone}")
    this = [dataclasses.replace(attempt, ending=verdict.ending) for attempt in attempts[-1:]]
    given_up = no_progress([*attempts[:-1], *this], saved)
    return (
        verdict if given_up is None else Verdict(EXIT_FAILED, "failed", f"{given_up}; the last one: {verdict.reason}")
    )


def no_progress(attempts: Sequence[JobAttempt], saved: str) -> str | None:
    """Return why a job is given up, if too many of its last attempts have saved no more than `saved`, the present
    progress.

    Returns None if it may continue.
    """
    without = list(itertools.takewhile(lambda attempt: attempt.saved == saved, reversed(attempts)))
    by_itself = sum(attempt.ending == "requeued" for attempt in without)
    if by_itself >= MAX_RESTARTS_WITHOUT_PROGRESS:
        return (
            f"started {by_itself} times in a row without saving anything new; it does not come back. Look into the "
            "log, then submit again: a longer time limit, more frequent checkpoints (checkpoint.every_steps) or an "
            "earlier warning (warning_seconds of the profile) may be what it needs"
        )
    if len(without) >= MAX_INTERRUPTIONS_WITHOUT_PROGRESS:
        return (
            f"interrupted {len(without)} times in a row before it had saved anything new; it does not come back. A "
            "partition or QOS whose jobs are preempted less, other nodes, or more frequent checkpoints "
            "(checkpoint.every_steps) may be what it needs; then submit again"
        )
    return None


def _without_history(end: JobEnd) -> Verdict:
    """Judge the attempt by itself."""
    is_stopped = end.was_warned if end.outcome is None else end.outcome.exit_code == EXIT_STOPPED
    if is_stopped:
        reason = "stopped before it had begun" if end.outcome is None else end.outcome.message
        return Verdict(EXIT_STOPPED, "requeued", reason)
    if not end.nodes_answer:
        # The other nodes' processes crash long before SLURM declares the node down and requeues the job by itself.
        return Verdict(EXIT_STOPPED, "interrupted", "a node of the job does not answer any more")
    if end.outcome is not None:
        return Verdict(end.outcome.exit_code, "failed", f"rank {end.outcome.rank}: {end.outcome.message}")
    # No code alone tells a stage's refusal from an error of srun, which ends with 1 and 2 too.
    if end.code > 128:
        return Verdict(EXIT_FAILED, "failed", f"killed by signal {end.code - 128} without a word (out of memory?)")
    return Verdict(EXIT_FAILED, "failed", f"srun ended with code {end.code} and no process recorded why; see above")
