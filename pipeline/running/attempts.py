"""The attempts of a stage: a line when a process starts on it and one when it ends; a start without an end was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.running.provenance import collect_provenance
from pipeline.store.journal import append_record

ATTEMPTS = "attempts.jsonl"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process's work on a stage."""

    start: float
    """Unix seconds."""
    end: float | None
    """None where the process still attempts or was killed."""
    error: str | None
    """How it ended; None where it ended well or has not ended."""
    world_size: int


@contextlib.contextmanager
def recorded_attempt(directory: Path, world_size: int) -> Iterator[None]:
    """Record that this process starts on the stage in `directory`, on what, and how that ends."""

    def record(kind: str, **fields: object) -> None:
        append_record(directory / ATTEMPTS, {"kind": kind, **fields, "time": round(time.time(), 3)})

    record("start", world_size=world_size, pid=os.getpid(), **collect_provenance())
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        # Where the disk is full, the error that said so is on its way; a second one would hide it.
        with contextlib.suppress(UserError):
            record("end", error=None if error is None else _told(error))


def _told(error: BaseException) -> str:
    """A message for the user as it is; of anything else its kind too."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def read_attempts(directory: Path) -> list[Attempt]:
    """The attempts of a stage directory in order; lines that a full disk or a kill tore are left out."""
    attempts: list[Attempt] = []
    try:
        lines = (directory / ATTEMPTS).read_text().splitlines()
    except FileNotFoundError:
        return attempts
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if fields["kind"] == "start":
            attempts.append(Attempt(fields["time"], None, None, fields["world_size"]))
        elif attempts:
            attempts[-1] = dataclasses.replace(attempts[-1], end=fields["time"], error=fields["error"])
    return attempts
