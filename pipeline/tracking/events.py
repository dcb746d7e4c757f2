"""The record of a stage: one JSON object a line, only ever appended to while the stage goes forward.

W&B, the progress display and the report all read these events. When a stage goes on from a checkpoint, the lines
written after that checkpoint are cut off first: the steps they tell of are done again and written again, so each is
there exactly once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"

Event = dict[str, Any]
"""`kind` (train, validation, checkpoint, evaluation, progress, ...), `time` (Unix seconds), and what the kind has."""
Listener = Callable[[Event], None]


class EventLog:
    """Appends events to a stage's file and tells the listeners of each."""

    def __init__(self, directory: Path, listeners: Sequence[Listener] = ()) -> None:
        self._file = (directory / EVENTS).open("ab")
        self._listeners = list(listeners)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; it survives the death of this process."""
        event: Event = {"kind": kind, "time": round(time.time(), 3), **fields}
        self._file.write(json.dumps(event).encode() + b"\n")
        self._file.flush()
        self._tell(event)

    def show(self, kind: str, **fields: Any) -> None:
        """Tell the listeners of something that is not worth a line in the record (a step between logged ones)."""
        self._tell({"kind": kind, "time": round(time.time(), 3), **fields})

    def position(self) -> int:
        """The file's length in bytes, with everything up to there on disk; a checkpoint remembers it."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def rewind(self, position: int) -> None:
        """Cut off what was written after `position`: those steps are about to be done again."""
        self._file.truncate(min(position, self._file.seek(0, os.SEEK_END)))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def read_events(directory: Path, kind: str | None = None) -> Iterator[Event]:
    """The events of a stage directory in order, all or of one kind; a torn last line is left out."""
    path = directory / EVENTS
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            event = json.loads(line)
            if kind is None or event["kind"] == kind:
                yield event
