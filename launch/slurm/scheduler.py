"""SLURM's commands, and the parsing of their output."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import LAUNCHER
from pipeline.tracking.wording import duration

_FORMAT = "%i|%T|%N|%M|%l|%r"
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
_SECONDS = 60
_WHICH_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
_OF_A_JOB = ("SLURM", "SBATCH", "SALLOC", "SRUN", "PMI", "TORCHELASTIC_")
_OF_A_TASK = {
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    LAUNCHER,
}


class JobRefused(UserError):
    """sbatch has refused a job, in its own words."""


@dataclasses.dataclass(frozen=True)
class QueuedJob:
    """A job in the output of squeue or sacct."""

    job: str
    state: str
    """RUNNING, PENDING, FAILED ..."""
    nodes: str = ""
    """The node list, `n[1-2]`; empty while it waits."""
    elapsed: str = ""
    """SLURM's notation, `1-02:03:04`."""
    limit: str = ""
    reason: str = ""
    """Reason of its waiting or of its end."""

    @property
    def is_alive(self) -> bool:
        """Whether it is queued, runs, or is about to end or to be requeued."""
        return self.state not in _ENDED


def submit(script: Path, after: Sequence[str], after_tasks: Sequence[str] = ()) -> str:
    """Queue a script after the jobs `after`, all of which must end well, and each task after those of its number of
    the arrays `after_tasks`. Returns the job id."""
    printed = _sbatch(*submit_options(after, after_tasks), str(script))
    return printed.strip().partition(";")[0]


def submit_options(after: Sequence[str], after_tasks: Sequence[str] = ()) -> list[str]:
    """Return options for sbatch; jobs whose dependency failed are cancelled."""
    conditions = {"afterok": after, "aftercorr": after_tasks}
    wanted = ",".join(f"{condition}:{':'.join(jobs)}" for condition, jobs in conditions.items() if jobs)
    return ["--parsable", "--kill-on-invalid-dep=yes", *([f"--dependency={wanted}"] if wanted else [])]


def check(script: Path) -> None:
    """Validate a script with SLURM, without queueing it. Raises UserError with SLURM's words if it is refused."""
    _sbatch("--test-only", str(script))


def cancel(jobs: Iterable[str]) -> None:
    """End jobs, queued or running."""
    _run("scancel", *jobs)


def all_nodes_answer(environment: Mapping[str, str]) -> bool:
    """Return whether processes can still be started on each node of the present job."""
    nodes = environment.get("SLURM_NNODES", "1")
    if nodes == "1":  # this one
        return True
    each = [
        "--overlap",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--gres=none",
    ]
    try:
        _run("srun", *each, "true")
    except UserError:
        return False
    return True


def look_up(jobs: Iterable[str]) -> dict[str, QueuedJob]:
    """Ask SLURM about jobs. Returns those that it knows: queued, running or recently ended; older ones from accounting.

    Raises UserError if SLURM does not answer.
    """
    wanted = list(jobs)
    if not wanted:
        return {}
    try:
        found = parse_squeue(
            _run("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(wanted)}", f"--format={_FORMAT}")
        )
    except UserError as error:
        if "Invalid job id" not in str(error):
            raise
        found = {}
    gone = [job for job in wanted if job not in found]
    return {**_accounted(gone), **found} if gone else found


def parse_squeue(printed: str) -> dict[str, QueuedJob]:
    """Parse squeue's lines. Returns the jobs by id."""
    jobs = (QueuedJob(*line.split("|", 5)) for line in printed.splitlines() if line.count("|") >= 5)
    return {job.job: dataclasses.replace(job, reason="" if job.reason == "None" else job.reason) for job in jobs}


def parse_sacct(printed: str) -> dict[str, QueuedJob]:
    """Parse sacct's lines. Returns the jobs by id."""
    jobs = {}
    for line in printed.splitlines():
        if line.count("|") < 4:
            continue
        job, state, nodes, elapsed, exit_code = line.split("|")[:5]
        word = state.split(" ")[0]  # "CANCELLED by 1000"
        jobs[job] = QueuedJob(job, word, nodes, elapsed, reason="" if word == "COMPLETED" else f"exit code {exit_code}")
    return jobs


def spell_time(text: str) -> str:
    """Format a time as SLURM prints it, `1-02:03:04`, like every other duration; `UNLIMITED` stays."""
    days, _, rest = text.rpartition("-")
    fields = rest.split(":")
    if not all(field.isdecimal() for field in [days or "0", *fields]):
        return text
    # With days, the first field is hours; without, the last is seconds.
    units = (3600, 60, 1) if days else (3600, 60, 1)[-len(fields) :]
    return duration(86400 * int(days or 0) + sum(int(n) * unit for n, unit in zip(fields, units, strict=False)))


def _accounted(jobs: list[str]) -> Mapping[str, QueuedJob]:
    """Look jobs up in the accounting; none are found if the cluster has no accounting."""
    fields = "--format=JobID,State,NodeList,Elapsed,ExitCode"
    try:
        return parse_sacct(_run("sacct", "--noheader", "--parsable2", "-X", f"--jobs={','.join(jobs)}", fields))
    except UserError:
        return {}


def submit_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for sbatch, which overrides the script's options and is handed on to the job.

    It lacks the variables that describe where `submit` runs: inside another job, a task of it, or torchrun.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _WHICH_CLUSTER or not (name in _OF_A_TASK or name.startswith(_OF_A_JOB))
    }


def _sbatch(*arguments: str) -> str:
    return _run("sbatch", *arguments, environment=submit_environment(os.environ))


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run one of SLURM's commands. Returns its stdout. Raises UserError with its own words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment)
    except FileNotFoundError as error:
        raise UserError(
            f"{command[0]}: no such command; SLURM's commands are needed here (is this the login node of the cluster?)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]}: no answer within {_SECONDS} s; is SLURM's controller up?") from error
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise (JobRefused if command[0] == "sbatch" else UserError)(
            f"{command[0]}: {words.removeprefix(f'{command[0]}: ')}"
        )
    return done.stdout
