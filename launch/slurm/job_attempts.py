"""The attempts of a job: lines of the kinds `job` and `job_end` among the attempts of the stage's first part.

They are counted from the starts, since a failed node leaves its job no time to record an end.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.config.identity import key_of
from pipeline.ground.errors import EXIT_DONE
from pipeline.running.attempts import ATTEMPTS, Outcome, read_outcome, read_records
from pipeline.running.stage import PlacedStage
from pipeline.store.journal import append_record

Ending = Literal["done", "requeued", "interrupted", "failed"]
"""requeued: it ended by itself and is requeued. interrupted: SLURM or a dead node ended it, and it is requeued."""


@dataclasses.dataclass(frozen=True)
class JobAttempt:
    """One start of a job."""

    job: str
    restart: int
    """0 for the first attempt of a job."""
    time: float
    """Unix seconds."""
    saved: str
    """Progress of the stage at the start; see `progress`."""
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Number of records in its attempts at the start, by part."""
    ending: Ending | None = None
    """None while it runs, and if it had no time to record it."""
    reason: str = ""


def note_job(stage: PlacedStage, job: str, restart: int, saved: str) -> None:
    """Record that a job starts on the stage."""
    lines = {part.name: len(read_records(part.directory)) for part in stage.parts}
    _append(stage, "job", job=job, restart=restart, saved=saved, lines=lines)


def note_job_end(stage: PlacedStage, job: str, ending: Ending, reason: str) -> None:
    """Record the end of a job's last attempt."""
    _append(stage, "job_end", job=job, ending=ending, reason=reason)


def read_job_attempts(stage: PlacedStage, job: str | None = None) -> list[JobAttempt]:
    """Read the attempts of all jobs of a stage, or of one, in order."""
    attempts: list[JobAttempt] = []
    last: dict[str, int] = {}
    for record in read_records(stage.parts[0].directory):
        if record["kind"] == "job":
            last[record["job"]] = len(attempts)
            names = ("job", "restart", "time", "saved", "lines")
            attempts.append(JobAttempt(**{name: record[name] for name in names}))
        elif record["kind"] == "job_end" and record["job"] in last:
            number = last[record["job"]]
            attempts[number] = dataclasses.replace(attempts[number], ending=record["ending"], reason=record["reason"])
    return [attempt for attempt in attempts if job in (None, attempt.job)]


def outcome_of(stage: PlacedStage, attempt: JobAttempt) -> Outcome | None:
    """Return the outcome of the stage's processes in an attempt, or None if they ended well or recorded none."""
    outcomes = [read_outcome(part.directory, attempt.lines.get(part.name, 0)) for part in stage.parts]
    return next((each for each in outcomes if each is not None and each.exit_code != EXIT_DONE), None)


def progress(stage: PlacedStage, shards: str | None) -> str:
    """Summarise the progress of a stage: all seals in its parts, and in the folder of shards.

    The text changes whenever more is saved.
    """
    folders = {part.name: part.directory for part in stage.parts} | ({} if shards is None else {"shards": Path(shards)})
    seals = [f"{name}/{seal}" for name, folder in folders.items() for seal in _seals(folder)]
    return f"{len(seals)} sealed, {key_of(seals)}" if seals else "nothing"


def _seals(folder: Path) -> Sequence[str]:
    """Return the seals below a folder, except those under temporary names of killed processes."""
    found = (seal.relative_to(folder) for seal in folder.rglob("*seal.json"))
    return sorted(str(seal) for seal in found if not any(part.startswith(".") for part in seal.parts))


def _append(stage: PlacedStage, kind: str, **fields: Any) -> None:
    append_record(stage.parts[0].directory / ATTEMPTS, {"kind": kind, "time": round(time.time(), 3), **fields})
