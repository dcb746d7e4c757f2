"""Which jobs a run has had: RUN/jobs.json, and beside it each job's script and log."""

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
    job: str
    profile: str
    submitted: float
    """Unix seconds."""
    waits_for: tuple[str, ...]
    """Job ids."""
    log: str
    """Where it writes all that it prints, over all its attempts."""
    is_cancelled: bool = False
    """Whether `launch cancel` has ended it."""


def read_jobs(run: Path) -> list[JobRecord]:
    """All jobs of a run, oldest first; empty where it was never submitted."""
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
    """Keep a job's script beside its log; returns its path."""
    (run / FOLDER).mkdir(exist_ok=True)
    path = run / FOLDER / f"{name}.sbatch"
    write_bytes(path, text.encode())
    return path


def log_path(run: Path, stage: str, key: str) -> Path:
    """Where a job writes what it prints; sbatch puts the job id for `%j`."""
    return run / FOLDER / f"{stage}-{key}-%j.log"


def latest_job(jobs: Iterable[JobRecord], stage: str, key: str) -> JobRecord | None:
    """The last job that was submitted for this very stage."""
    matching = [job for job in jobs if (job.stage, job.key) == (stage, key)]
    return matching[-1] if matching else None
