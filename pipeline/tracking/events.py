"""The record of a stage: one JSON object a line, only ever appended to while the stage goes forward.

W&B, the progress display and the report all read these events. When a stage goes on from a checkpoint, the lines
written after that checkpoint are cut off first: the steps they tell of are done again and written again, so each is
there exactly once.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.store.file import naming

EVENTS = "events.jsonl"

Event = dict[str, Any]
"""`kind`, `time` (Unix seconds), and what the kind has:

train       global_step, epoch, loss, lr, images_per_second, data_wait_percent (every tracking.log_every_steps)
validation  global_step, epoch, loss, top1_error_percent, top5_error_percent, images
evaluation  plan, images, crops (of a fusion: members), top1_error_percent, top5_error_percent, seconds
checkpoint  global_step, path, seconds, bytes                    (shown, never written)
progress    done, total, unit, rate, text                         (shown, never written)
note        level (info or warning), text                         (shown, never written)
"""
Listener = Callable[[Event], None]


class EventLog:
    """Appends events to a stage's file and tells the listeners of each."""

    def __init__(self, directory: Path | None, listeners: Sequence[Listener] = ()) -> None:
        """`directory` None keeps nothing: for the ranks that are not the main one."""
        self._path = Path(os.devnull) if directory is None else directory / EVENTS
        with naming(self._path):
            self._file = self._path.open("a+b", buffering=0)
            _cut_torn_line(self._file)
        self._listeners = tuple(listeners)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; it survives the death of this process."""
        event: Event = {"kind": kind, "time": round(time.time(), 3), **fields}
        with naming(self._path):
            self._file.write(json.dumps(event).encode() + b"\n")
        self._tell(event)

    def show(self, kind: str, **fields: Any) -> None:
        """Tell the listeners of something that is not worth a line in the record."""
        self._tell({"kind": kind, "time": round(time.time(), 3), **fields})

    def position(self) -> int:
        """The file's length in bytes, with everything up to there on disk; a checkpoint remembers it."""
        if self._path != Path(os.devnull):
            os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def rewind(self, position: int) -> None:
        """Cut off what was written after `position`: those steps are about to be done again."""
        if self._path != Path(os.devnull):
            self._file.truncate(min(position, self._file.seek(0, os.SEEK_END)))

    def close(self) -> None:
        """Flush to disk and close."""
        self.position()
        self._file.close()

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def _cut_torn_line(file: io.FileIO) -> None:
    """Remove what a killed process wrote of a line it could not finish."""
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - 65536)
    file.seek(start)
    tail = file.read(end - start)
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)


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
