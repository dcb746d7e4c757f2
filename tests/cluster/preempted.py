"""One run on two nodes whose training is interrupted again and again, and what was seen on the way."""

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
    """When the first step of the next attempt was done."""


@dataclasses.dataclass
class Chronicle:
    """All that happened, in order."""

    run: ClusterRun
    submitted: Answer
    submitted_again: Answer
    interruptions: list[Interruption]
    statuses: dict[str, str]
    """What `launch status` printed, by the moment."""
    watched: Answer
    """What `launch status --watch` printed over the whole run."""
    followed: Answer
    """What `launch logs train -f` printed over all attempts of the training job."""


def interrupt_training(run: ClusterRun) -> Chronicle:
    """Submit all stages, interrupt training by the warning signal, by `scontrol requeue` and by the death of a node,
    and wait for the last stage's end."""
    cluster = run.cluster
    submitted = run.submit()
    followed = run.start("logs", run.directory, "train", "--follow")
    watched = run.start("status", run.directory, "--watch", "5")
    submitted_again = run.submit()
    job = run.job_id("train")
    interruptions: list[Interruption] = []
    statuses = {}

    def interrupt(kind: str, how: Callable[[], object]) -> None:
        number = len(interruptions) + 1
        began = run.wait_for_attempt("train", number)
        # As many steps as make sure of a checkpoint in this attempt, where one is needed.
        run.wait_for_step_after(began, 5 if kind == "node" else 2)
        with run.held("train"):
            if number == 1:
                statuses["running"] = run.status()
            asked = time.time()
            how()
        requeued = run.wait_for_restart("train", number)
        if kind != "node":
            # What is on record is final when the attempt's own end is.
            run.wait_for_ending("train", number)
        dependent, steps, saved = run.job("evaluate"), run.steps(), run.saved_step()
        if number == 1:
            statuses["preempted"] = run.status()
        restarted = run.wait_for_attempt("train", number + 1)
        first_step = run.wait_for_step_after(restarted)
        interruptions.append(Interruption(kind, asked, requeued, steps[-1], saved, dependent, restarted, first_step))

    # What Slurm sends for --signal=B:USR2, and what a preempting Slurm sends with preempt_send_user_signal.
    interrupt("signal", lambda: cluster.command("scancel", "--batch", "--signal=USR2", job))
    interrupt("requeue", lambda: cluster.command("scontrol", "requeue", job))
    interrupt("node", lambda: cluster.kill_node("n2"))
    run.wait_for_state("train", "COMPLETED")
    for stage in run.stages_behind("train"):
        run.wait_for_state(stage, "COMPLETED")
    statuses["done"] = run.status()
    return Chronicle(run, submitted, submitted_again, interruptions, statuses, watched(), followed())
