"""Job status: a stage's state on disk merged with its SLURM job's."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from launch.slurm import scheduler
from launch.slurm.job_attempts import JobAttempt, read_job_attempts
from launch.slurm.jobs import JobRecord, latest_job, read_jobs
from launch.slurm.scheduler import QueuedJob, spell_time
from launch.state import Condition, StageState
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage


@dataclasses.dataclass(frozen=True)
class RunJobs:
    """The jobs of a run, and their present state in SLURM."""

    records: Sequence[JobRecord]
    known: Mapping[str, QueuedJob]
    unfinished: Collection[str]
    """Stages that are not done."""
    problem: str | None = None
    """Reason why SLURM did not answer."""

    @property
    def profile(self) -> str | None:
        """The profile of the last submission, or None if the run was never submitted."""
        return self.records[-1].profile if self.records else None

    @property
    def is_alive(self) -> bool:
        """Whether a job of this run is queued or runs."""
        return any(job.is_alive for job in self.known.values())

    def with_job(self, stage: PlacedStage, state: StageState) -> StageState:
        """Merge the stage's state on disk with its latest job."""
        record = latest_job(self.records, stage.name, stage.key)
        if record is None or self.problem is not None:
            return state
        stage_of = {job.job: job.stage for job in self.records if job.stage in self.unfinished}
        return with_job(state, record, self.known.get(record.job), read_job_attempts(stage), stage_of)


def jobs_of(runs: Mapping[Path, Mapping[str, PlacedStage]]) -> dict[Path, RunJobs]:
    """Read the jobs of runs with these stages, and ask SLURM, once, about those of all unfinished stages."""
    records = {run: read_jobs(run) for run in runs}
    unfinished = {run: [stage for stage in stages.values() if not stage.is_done] for run, stages in runs.items()}
    latest = {
        run: {job.job for stage in stages if (job := latest_job(records[run], stage.name, stage.key)) is not None}
        for run, stages in unfinished.items()
    }
    known: Mapping[str, QueuedJob] = {}
    problem = None
    try:
        known = scheduler.look_up(dict.fromkeys(job for jobs in latest.values() for job in sorted(jobs)))
    except UserError as error:
        problem = str(error)
    return {
        run: RunJobs(
            records[run],
            {job: known[job] for job in latest[run] if job in known},
            [stage.name for stage in unfinished[run]],
            problem,
        )
        for run in runs
    }


def with_job(
    state: StageState,
    record: JobRecord,
    queued: QueuedJob | None,
    attempts: Sequence[JobAttempt],
    stage_of: dict[str, str],
) -> StageState:
    """Merge a stage's state on disk with its latest job's.

    `queued` is None if SLURM does not know the job (any more); `attempts` are those of the stage in order; `stage_of`
    maps job ids to the unfinished stages.
    """
    if state.condition == "done":
        return state
    own = [attempt for attempt in attempts if attempt.job == record.job]
    if queued is None or not queued.is_alive:
        return _ended(state, record, queued, own)
    if queued.state == "PENDING":
        condition, detail = _pending(record, queued, own, stage_of)
    else:
        condition = "running"
        word = "" if queued.state == "RUNNING" else f" is {queued.state.lower()}"
        ran = f"{spell_time(queued.elapsed)} of {spell_time(queued.limit)}"
        detail = f"job {record.job}{word} on {queued.nodes or 'no node yet'}, {ran}"
    return StageState(condition, "\n".join([detail, *_comebacks(own, queued)]))


def _pending(
    record: JobRecord, queued: QueuedJob, attempts: Sequence[JobAttempt], stage_of: dict[str, str]
) -> tuple[Condition, str]:
    if attempts:
        return (
            "requeued",
            f"job {record.job} comes back as soon as SLURM lets it ({queued.reason or 'no reason given'})",
        )
    if queued.reason == "Dependency":
        names = ", ".join(f"{stage_of[job]} ({job})" for job in record.waits_for if job in stage_of)
        # There is no moment between the end of a stage and that of its job.
        return "waiting", f"job {record.job} waits for {names or 'the job before it to end'}"
    return "queued", f"job {record.job}: {queued.reason or 'no reason given'}"


def _ended(
    state: StageState, record: JobRecord, queued: QueuedJob | None, attempts: Sequence[JobAttempt]
) -> StageState:
    """Return the state of an unfinished stage whose job is gone."""
    if record.is_cancelled:
        return StageState("stopped" if attempts else "to run", f"job {record.job} was cancelled")
    last = attempts[-1] if attempts else None
    words = "is no longer known to SLURM" if queued is None else f"ended as {queued.state}"
    lines = [f"job {record.job} {words}" + (f" ({queued.reason})" if queued is not None and queued.reason else "")]
    if last is not None and last.ending == "failed":
        lines = [f"job {record.job}: {last.reason}"]
    elif last is None:
        if queued is not None and queued.state == "FAILED":  # before the stage: a setup line of the profile, a folder
            return StageState("failed", f"{lines[0]}; {record.log} says why")
        # Removed from the queue since a stage before it failed, or never started at all.
        return StageState("to run" if state.condition in ("waiting", "to run") else state.condition, lines[0])
    elif state.condition in ("failed", "stopped", "killed"):
        lines.append(state.detail)
    condition: Condition = state.condition if state.condition in ("stopped", "killed") else "failed"
    return StageState(
        "failed" if last.ending == "failed" else condition, "\n".join([*lines, *_comebacks(attempts, None)])
    )


def _comebacks(attempts: Sequence[JobAttempt], queued: QueuedJob | None) -> list[str]:
    """Describe in one line the number of interruptions of the job, and the reason of the last."""
    ended = attempts if queued is not None and queued.state == "PENDING" else attempts[:-1]
    if not ended:
        return []
    times = "once" if len(ended) == 1 else f"{len(ended)} times"
    return [f"interrupted {times}; the last time: {ended[-1].reason or 'without a word (killed, or its node failed)'}"]
