"""The attempts of a part: one line when a process starts on it and one when it ends. A start without an end was killed.

Every rank may record its end, since torchrun (always 1) and groups of SLURM tasks lose exit codes; the first bad end
gives the reason, later ones are its consequences. SLURM's job body keeps its lines here too.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.ranks import Ranks
from pipeline.store.journal import Record, append_record, read_journal

ATTEMPTS = "attempts.jsonl"
NOT_SAVED = "ended at once by a second Ctrl-C: what was done since the last checkpoint is not saved"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the exit code of the contract, and one message for a person."""

    exit_code: int
    message: str
    rank: int


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt at a part, from start to end."""

    start: float
    """Unix seconds."""
    world_size: int
    end: float | None = None
    """None if it is running or was killed."""
    outcome: Outcome | None = None


def note_start(directory: Path, ranks: Ranks) -> None:
    """Record the start of an attempt; called by the main rank under the directory's lock."""
    _append(directory, "start", world_size=ranks.world_size, pid=os.getpid(), host=socket.gethostname())


def note_end(directory: Path, outcome: Outcome) -> bool:
    """Record the end of this rank's attempt. Returns whether this rank is the attempt's first to end."""
    _append(directory, "end", **dataclasses.asdict(outcome), pid=os.getpid(), host=socket.gethostname())
    ends = _last_ends(read_records(directory))
    return not ends or (ends[0]["pid"], ends[0]["host"]) == (os.getpid(), socket.gethostname())


def note_images(directory: Path, split: str, place: str) -> None:
    """Record that the images of a split match the index at `place`, a folder or a set of shards."""
    _append(directory, "images", split=split, place=place)


def known_places(run: Path) -> set[tuple[str, str]]:
    """Return splits and places whose images some attempt of the run has checked."""
    records = (record for path in run.glob(f"*/{ATTEMPTS}") for record in read_journal(path))
    return {(record["split"], record["place"]) for record in records if record["kind"] == "images"}


def read_records(directory: Path) -> list[Record]:
    """Return every line in order, SLURM's included."""
    return list(read_journal(directory / ATTEMPTS))


def read_attempts(directory: Path) -> list[Attempt]:
    """Return all attempts in order."""
    attempts: list[Attempt] = []
    for record in read_records(directory):
        if record["kind"] == "start":
            attempts.append(Attempt(record["time"], record["world_size"]))
        elif record["kind"] == "end" and attempts and _counts(attempts[-1].outcome):
            attempts[-1] = dataclasses.replace(attempts[-1], end=record["time"], outcome=_outcome(record))
    return attempts


def seconds_of(attempts: Iterable[Attempt]) -> float:
    """Return the time from start to end over all attempts whose end is recorded."""
    # Nodes' clocks differ, so that an attempt may seem to end before it began.
    return sum(max(0.0, attempt.end - attempt.start) for attempt in attempts if attempt.end is not None)


def read_outcome(directory: Path, after: int | None = None) -> Outcome | None:
    """Return the outcome of the last attempt: the first bad end of its ranks.

    `after` is the number of lines before the attempt; one of its ranks may end before the main one has started. Returns
    None if it is running, was killed, or never started.
    """
    records = read_records(directory)
    ends = _last_ends(records) if after is None else [record for record in records[after:] if record["kind"] == "end"]
    bad = [record for record in ends if record["exit_code"] != EXIT_DONE]
    return _outcome((bad or ends)[0]) if ends else None


def _counts(outcome: Outcome | None) -> bool:
    return outcome is None or outcome.exit_code == EXIT_DONE


def _outcome(record: Record) -> Outcome:
    return Outcome(record["exit_code"], record["message"], record["rank"])


def _last_ends(records: Sequence[Record]) -> list[Record]:
    """Return the ends of the last attempt, those since its start. One that fails before its start ends a rank once
    more."""
    ends: dict[int, Record] = {}
    for record in records:
        if record["kind"] == "start" or (record["kind"] == "end" and record["rank"] in ends):
            ends = {}
        if record["kind"] == "end":
            ends[record["rank"]] = record
    return list(ends.values())


def _append(directory: Path, kind: str, **fields: Any) -> None:
    append_record(directory / ATTEMPTS, {"kind": kind, "time": round(time.time(), 3), **fields})
