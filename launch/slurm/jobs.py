"""The jobs of a run: RUN/jobs.json, and beside it each job's script and log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.store.file import write_bytes, write_json

JOBS = "jobs.json"
FOLDER = "jobs"


@dataclasses.dataclass(frozen=True)
class JobRecord:
    """A job that was submitted for a stage of this run."""

    stage: str
    key: str
    """Key of the placed stage."""
    job: str
    profile: str
    submitted: float
    """Unix seconds."""
    waits_for: tuple[str, ...]
    """Ids of the jobs that it waits for."""
    log: str
    """Path of its output, over all its attempts."""
    is_cancelled: bool = False
    """Whether `launch cancel` has ended it."""


def read_jobs(run: Path) -> list[JobRecord]:
    """Read all jobs of a run, oldest first; none if it was never submitted. Raises UserError if they cannot be read."""
    path = run / JOBS
    try:
        return [
            JobRecord(**{**fields, "waits_for": tuple(fields["waits_for"])}) for fields in json.loads(path.read_text())
        ]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a readable list of jobs ({error}); see what is queued with squeue, then delete this file"
        ) from error


def write_jobs(run: Path, jobs: Iterable[JobRecord]) -> None:
    """Replace the list."""
    write_json(run / JOBS, [dataclasses.asdict(job) for job in jobs])


def write_script(run: Path, name: str, text: str) -> Path:
    """Write a job's script beside its log. Returns its path."""
    (run / FOLDER).mkdir(exist_ok=True)
    path = run / FOLDER / f"{name}.sbatch"
    write_bytes(path, text.encode())
    return path


def log_path(run: Path, stage: str, key: str) -> Path:
    """Return the path of a job's output; sbatch replaces `%j` by the job id."""
    return run / FOLDER / f"{stage}-{key}-%j.log"


def latest_job(jobs: Iterable[JobRecord], stage: str, key: str) -> JobRecord | None:
    """Return the last job that was submitted for a stage under this key, or None."""
    matching = [job for job in jobs if (job.stage, job.key) == (stage, key)]
    return matching[-1] if matching else None
