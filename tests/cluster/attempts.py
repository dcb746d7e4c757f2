"""Stories of runs with one process or two: what stops a job, what brings it back, and what does not. Each function goes
through one and returns what was seen; the tests are in the modules beside this one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
from pathlib import Path

from launch.slurm.job_attempts import Ending
from tests.cluster.runs import PATIENCE, Answer, ClusterRun
from tests.cluster.slurm import Job, wait_until

_HANGING_PYTHON = """\
#!/bin/bash
# Python, but for stages: each says who it is, and never comes to anything.
for word; do
  if [ "$word" = stages ]; then
    echo "rank $SLURM_PROCID of $SLURM_STEP_NUM_TASKS, local rank $SLURM_LOCALID on $SLURMD_NODENAME," \\
      "GPUs $CUDA_VISIBLE_DEVICES, meeting at $MASTER_ADDR:$MASTER_PORT"
    exec sleep infinity
  fi
done
exec "{python}" "$@"
"""


def hanging_python(folder: Path) -> str:
    """A Python for a profile with which no stage ever gets further, nor costs anything."""
    path = folder / "python"
    path.write_text(_HANGING_PYTHON.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A training that was asked to stop twice, while a second job tried to work on it."""

    run: ClusterRun
    second_job: str
    """What the second job printed."""


def stop_and_return(run: ClusterRun) -> Stopped:
    """Training meets a second job on its directory, then SIGTERM alone, then its time limit, and ends."""
    assert run.submit("--only", "train").code == 0
    job = run.job_id("train")
    run.wait_for_step_after(run.wait_for_attempt("train", 1))
    (script,) = run.directory.glob("jobs/train-*.sbatch")
    with run.held("train"):
        second = run.cluster.command("sbatch", "--parsable", str(script)).strip()
        wait_until(lambda: run.cluster.job(second).state == "FAILED", PATIENCE, "the second job's end")
        # What a cluster without a warning signal does: SIGTERM to all of the job, and SIGKILL later.
        run.cluster.command("scancel", "--full", "--signal=TERM", job)
    run.wait_for_restart("train", 1)

    run.wait_for_step_after(run.wait_for_attempt("train", 2))
    with run.held("train"):
        # Less than the profile's warning time is left at once, and minutes until the end.
        run.cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=9")
        wait_until(lambda: run.log("train").count("asked to stop") == 2, PATIENCE, "the time limit's warning")
        run.cluster.command("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    run.wait_for_state("train", "COMPLETED")
    (log,) = run.directory.glob(f"jobs/train-*-{second}.log")
    return Stopped(run, log.read_text())


@dataclasses.dataclass(frozen=True)
class Failed:
    """A training that failed in two ways, and went on each time that it was submitted again."""

    run: ClusterRun
    full_disk: str
    """What the job printed whose disk was full."""
    full_disk_job: Job
    crashed: str
    """What the job printed that crashed twice."""
    crashed_job: Job
    status: str
    """Of the run after that."""
    lock: str
    """What the dead process's lock says."""
    again: Answer
    """The submission to two processes instead of one."""


def fail_and_go_on(run: ClusterRun) -> Failed:
    """Training fills its disk after one checkpoint, then crashes twice, and ends with two processes."""
    disk = run.stage("train").directory
    run.cluster.mount_disk(disk, "8m")  # one checkpoint takes 4.5 MB
    assert run.submit("--only", "train").code == 0
    run.wait_for_state("train", "FAILED")
    full_disk, full_disk_job = run.log("train"), run.job("train")
    run.cluster.command("mount", "-o", "remount,size=64m", str(disk))
    assert run.submit().code == 0
    for attempt in (1, 2):
        # An attempt must have saved something, or it is not granted another one.
        run.wait_for_step_after(run.wait_for_attempt("train", attempt), 5)
        os.kill(run.rank_zero("train"), signal.SIGKILL)
    run.wait_for_state("train", "FAILED")
    crashed, crashed_job = run.log("train"), run.job("train")
    for stage in run.stages_behind("train"):
        run.wait_for_state(stage, "CANCELLED")
    status = run.status()
    lock = (disk / ".lock").read_text()
    again = run.with_profile(nodes=2).submit("--only", "train")
    run.wait_for_state("train", "COMPLETED")
    return Failed(run, full_disk, full_disk_job, crashed, crashed_job, status, lock, again)


@dataclasses.dataclass(frozen=True)
class WithoutProgress:
    """A run whose training never gets further, cancelled, and submitted again."""

    run: ClusterRun
    log: str
    status: str
    endings: list[Ending | None]
    """Of the first job's attempts."""
    cancelled: Answer
    log_of_cancelled: Answer
    cancelled_job: Job
    submitted: list[str]
    """The ids of the three jobs of training."""


def never_get_further(run: ClusterRun) -> WithoutProgress:
    """Training hangs until it is stopped, in each of its attempts until it is given none any more, but for an attempt
    that SLURM itself ends, which does not count; the next job is cancelled by its user."""
    submitted = []
    assert run.submit().code == 0
    submitted.append(run.job_id("train"))
    job = run.job_id("train")
    for attempt in (1, 2, 3, 4):
        run.wait_for_attempt("train", attempt)
        run.rank_zero("train")  # or the job body would end before it can say anything
        if attempt == 1:
            run.cluster.command("scontrol", "requeue", job)
        else:
            stop_deaf_stage(run, "train")
        if attempt < 4:
            run.wait_for_restart("train", attempt)
    run.wait_for_state("train", "FAILED")
    for stage in run.stages_behind("train"):
        run.wait_for_state(stage, "CANCELLED")
    log, status, endings = run.log("train"), run.status(), [attempt.ending for attempt in run.attempts("train")]

    assert run.submit().code == 0
    submitted.append(run.job_id("train"))
    run.wait_for_attempt("train", 1)
    cancelled = run.launch("cancel", run.directory)
    for stage in ("train", *run.stages_behind("train")):
        run.wait_for_state(stage, "CANCELLED", "FAILED")
    cancelled_job, log_of_cancelled = run.job("train"), run.launch("logs", run.directory, "train")
    wait_until(lambda: run.submit().code == 0, PATIENCE, "the cancelled jobs' end")
    submitted.append(run.job_id("train"))
    run.launch("cancel", run.directory)
    return WithoutProgress(run, log, status, endings, cancelled, log_of_cancelled, cancelled_job, submitted)


def stop_deaf_stage(run: ClusterRun, stage: str) -> None:
    """Ask a hanging stage to stop, as before the end of its time, and end it: it saves nothing."""
    process, warnings = run.rank_zero(stage), run.log(stage).count("asked to stop")
    run.cluster.command("scancel", "--batch", "--signal=USR2", run.job_id(stage))
    wait_until(lambda: run.log(stage).count("asked to stop") > warnings, PATIENCE, "the warning")
    os.kill(process, signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Tampered:
    """Jobs under which the run was changed while they waited for their next attempt."""

    held: str
    """The status of the run whose job was requeued, and held in the queue."""
    edited: str
    """What the job printed whose config was edited."""
    vanished: Job
    """The job whose run directory was gone, after that."""
    status: Answer
    """Of the directory that is gone."""
    again: Answer
    """The submission of the same run after that."""


def tamper(run: ClusterRun) -> Tampered:
    """The config is edited between two attempts of a job, and the run directory removed between two of the next."""
    cluster = run.cluster

    def requeue_held() -> str:
        answer = run.submit("--only", "build")
        assert answer.code == 0, answer.output
        run.wait_for_attempt("build", 1)
        job = run.job_id("build")
        cluster.command("scontrol", "requeuehold", job)
        wait_until(lambda: cluster.job(job).state == "PENDING", PATIENCE, "the job in the queue")
        return job

    job = requeue_held()
    held = run.status()
    path = run.directory / "config.yaml"
    path.write_text(path.read_text().replace("seed: 11", "seed: 12"))
    cluster.command("scontrol", "release", job)
    wait_until(lambda: cluster.job(job).state == "FAILED", PATIENCE, "the end of the job whose config was edited")
    (log,) = run.directory.glob(f"jobs/build-*-{job}.log")
    edited = log.read_text()
    path.write_text(path.read_text().replace("seed: 12", "seed: 11"))

    job = requeue_held()
    shutil.rmtree(run.directory)
    cluster.command("scontrol", "release", job)
    wait_until(lambda: cluster.job(job).state == "FAILED", PATIENCE, "the end of the job whose run is gone")
    status = run.launch("status", run.directory)
    again = run.submit("--only", "build")
    run.launch("cancel", run.directory)
    return Tampered(held, edited, cluster.job(job), status, again)


@dataclasses.dataclass(frozen=True)
class Swept:
    """Four members by seed and the batch of their evaluation; the training of the second seed was asked to stop."""

    folder: ClusterRun
    members: list[ClusterRun]
    submitted: Answer
    waiting: list[str]
    """The states of the evaluations of the second seed while its training was queued again."""
    status: str
    """Of the sweep in the end."""


def sweep_four(run: ClusterRun) -> Swept:
    """All stages for two seeds, each evaluated twice; the second one's training is asked to stop once."""
    words = ("sweep.evaluate.batch=[8,16]", "--seeds", "1,2", "train.epochs=2", "schedule.drop_epochs=[1.5]")
    submitted = run.submit(*words)
    assert submitted.code == 0, submitted.output
    members = [run.member(f"batch{batch}-seed{seed}") for seed in (1, 2) for batch in (8, 16)]
    second = members[2]
    second.wait_for_step_after(second.wait_for_attempt("train", 1))
    with second.held("train"):
        run.cluster.command("scancel", "--batch", "--signal=USR2", second.job_id("train"))
    second.wait_for_restart("train", 1)
    waiting = [member.job("evaluate").state for member in members[2:]]
    for member in members:
        for stage in ("train", *member.stages_behind("train")):
            member.wait_for_state(stage, "COMPLETED")
    return Swept(run, members, submitted, waiting, run.status())


def evaluate_file(run: ClusterRun, prepared: Path) -> ClusterRun:
    """Evaluation alone, of a weight file."""
    (weights,) = prepared.glob("build-*/weights.safetensors")
    submitted = run.submit("--only", "evaluate", f"evaluate.weights={weights}", "--accept-changes")
    assert submitted.code == 0, submitted.output
    run.wait_for_state("evaluate", "COMPLETED")
    return run
