"""The life of one run on two nodes that is interrupted again and again, and what was seen on the way."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from tests.cluster.runs import Answer, ClusterRun
from tests.cluster.slurm import Job


@dataclasses.dataclass(frozen=True)
class Interruption:
    """One interruption of the training job."""

    kind: str
    asked: float
    """Unix seconds, like all times here."""
    requeued: float
    last_step: int
    """The last step on record when the job was back in the queue."""
    saved_step: int
    """The step of the newest checkpoint then."""
    dependent: Job
    """The job that waits for training, then."""
    restarted: float
    """When the job's body ran again."""
    first_step: float
    """When the first step of the next life was done."""


@dataclasses.dataclass
class Chronicle:
    """All that happened, in order."""

    run: ClusterRun
    submitted: Answer
    submitted_again: Answer
    interruptions: list[Interruption]
    statuses: dict[str, str]
    """What `launch status` printed, by the moment."""


def live_through(run: ClusterRun) -> Chronicle:
    """Submit the chain, interrupt training by the warning signal, by `scontrol requeue` and by the death of a node, and
    wait for the end of the chain."""
    cluster = run.cluster
    chronicle = Chronicle(run, run.submit(), run.submit(), [], {})
    job = run.job_id("train")

    def interrupt(number: int, kind: str, how: Callable[[], object], min_steps: int) -> None:
        began = run.wait_for_life("train", number)
        run.wait_for_step_after(began, min_steps)
        with run.held("train"):
            if number == 1:
                chronicle.statuses["running"] = run.status()
            asked = _now(how)
        requeued = run.wait_for_restart("train", number)
        dependent = run.job("evaluate")
        steps, saved = run.steps(), run.saved_step()
        if number == 1:
            chronicle.statuses["preempted"] = run.status()
        restarted = run.wait_for_life("train", number + 1)
        first_step = run.wait_for_step_after(restarted)
        chronicle.interruptions.append(
            Interruption(kind, asked, requeued, steps[-1], saved, dependent, restarted, first_step)
        )

    # What Slurm sends for --signal=B:USR2, and what a preempting Slurm sends with preempt_send_user_signal.
    interrupt(1, "signal", lambda: cluster.command("scancel", "--batch", "--signal=USR2", job), 3)
    interrupt(2, "requeue", lambda: cluster.command("scontrol", "requeue", job), 3)
    # Long enough that there is a checkpoint of this life.
    interrupt(3, "node", lambda: cluster.kill_node("n2"), 6)
    run.wait_for_state("train", "COMPLETED")
    run.wait_for_state("report", "COMPLETED")
    chronicle.statuses["done"] = run.status()
    return chronicle


def _now(action: Callable[[], object]) -> float:
    moment = time.time()
    action()
    return moment
