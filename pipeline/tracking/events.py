"""The event log of a stage: a journal that only grows while the stage progresses.

W&B, the display and the report read these events. When a stage resumes from a checkpoint, the events after that
checkpoint are removed first: their steps are repeated and recorded again, so each is there exactly once.

Events only inform, so no damage to them ends a stage: an event that cannot be written waits for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.store.journal import Journal, Position, read_journal, read_tail

EVENTS = "events.jsonl"

Event = dict[str, Any]
"""`kind`, `time` (Unix seconds), and what the kind has:

train       global_step, epoch, loss, lr, images_per_second, data_wait_percent (every tracking.log_every_steps)
validation  global_step, epoch, loss, top1_error_percent, top5_error_percent, images
evaluation  plan, images, crops (of a fusion: members), top1_error_percent, top5_error_percent (of more than 5 classes),
            restricted_top1_error_percent and present_classes (if the images have not all of the network's), seconds
checkpoint  global_step, path, seconds, bytes                    (shown, never written)
progress    done, total, unit, rate, text                         (shown, never written)
note        level (info or warning), text                         (shown, never written)
"""
Listener = Callable[[Event], None]

_NOTHING: Position = {"number": 0, "crc": "", "missing": 0}


class EventLog:
    """Appends events to a stage's journal and passes each to the listeners."""

    def __init__(self, directory: Path | None, listeners: Sequence[Listener] = ()) -> None:
        """Open the journal of `directory`; None discards events (ranks that are not the main one).

        Damage to the journal is reported to the listeners by a note.
        """
        self._listeners = tuple(listeners)
        self._has_told = False
        self._journal = None if directory is None else Journal(directory / EVENTS, self._warn)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; it survives the death of this process."""
        event = _event(kind, fields)
        error = None if self._journal is None else self._journal.append(event)
        self._tell(event)
        if error is not None and not self._has_told:
            self._has_told = True
            self._warn(
                f"{error.filename}: {error.strerror}; 1 event waits to be written, with all that follow; going on"
            )

    def show(self, kind: str, **fields: Any) -> None:
        """Pass an event to the listeners without recording it."""
        self._tell(_event(kind, fields))

    def position(self) -> Position:
        """Return the end of the journal for a checkpoint, after flushing all but the `missing` events."""
        return _NOTHING if self._journal is None else self._journal.position()

    def rewind(self, position: Position | None) -> None:
        """Truncate the journal after `position` (None: to nothing), since those steps are about to be repeated."""
        if self._journal is not None:
            self._journal.rewind(position)

    def adopt(self, directory: Path) -> None:
        """Begin with the record of another stage directory, with its numbers and times, instead of one's own."""
        if self._journal is not None:
            self._journal.adopt(directory / EVENTS)

    def close(self) -> None:
        """Write the pending events and close; reports those still missing."""
        if self._journal is None:
            return
        self._journal.close()
        num_missing = len(self._journal.pending)
        if num_missing:
            self._warn(f"{self._journal.path}: {num_missing:,} of this start's events could not be written")

    def _warn(self, text: str) -> None:
        self.show("note", level="warning", text=text)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


def read_events(directory: Path, kind: str | None = None) -> Iterator[Event]:
    """Return the events of a stage directory in order, all or of one kind, skipping damaged and torn lines."""
    for event in read_journal(directory / EVENTS):
        if kind is None or event["kind"] == kind:
            yield event


def read_last_events(directory: Path) -> list[Event]:
    """Return the newest events of a stage directory, in order: as many as fit into a few pages of a journal of any
    length."""
    return read_tail(directory / EVENTS)


def _event(kind: str, fields: dict[str, Any]) -> Event:
    return {"kind": kind, "time": round(time.time(), 3), **fields}
