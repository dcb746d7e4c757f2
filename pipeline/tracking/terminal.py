"""The display of a stage: a bar with rate and time left on a terminal, plain lines everywhere else."""

from __future__ import annotations

import abc
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from pipeline.ground.printing import printable
from pipeline.tracking.events import Event
from pipeline.tracking.wording import describe, describe_training, duration, rate

Clock = Callable[[], float]

_NARROWEST_BAR = 8
_LEFT = "ETA "


def open_display(stage: str, stream: TextIO, clock: Clock = time.monotonic) -> Display:
    """Return the display that suits `stream`: a bar on a terminal that can move its cursor, plain lines elsewhere."""
    if stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        return TerminalDisplay(stage, Console(file=stream, force_terminal=True, highlight=False), clock)
    return PlainDisplay(stage, stream, clock)


@dataclasses.dataclass
class _Count:
    """A counter, and its value when this process began."""

    first_done: int
    first_time: float
    done: int


class Display(abc.ABC):
    """A listener with an end. Events may come from any thread; a closed terminal never disturbs the stage."""

    interval_seconds: float
    """Interval of progress reports; the first and the last of a counter are always shown."""

    def __init__(self, stage: str, clock: Clock) -> None:
        self._stage = stage
        self._clock = clock
        self._lock = threading.Lock()
        self._is_gone = False
        self._counts: dict[tuple[str, int], _Count] = {}
        self._train: Event | None = None
        self._shown_at = float("-inf")
        self._fields: list[str] | None = None
        """Fields of the newest progress, if it is not shown as a line."""

    def __call__(self, event: Event) -> None:
        """Show the event if it is of a shown kind."""
        with self._lock:
            if event["kind"] == "train":
                self._train = event
            elif event["kind"] == "progress":
                self._attempt(lambda: self._show_progress(event))
            elif (line := describe(self._stage, event)) is not None:
                is_warning = event["kind"] == "note" and event["level"] == "warning"
                self._attempt(lambda: self._print(line, "yellow" if is_warning else ""))

    def close(self) -> None:
        """Show the pending progress, which has no time left now, and release the terminal."""
        with self._lock:
            self._fields = self._fields and [field for field in self._fields if not field.startswith(_LEFT)]
            self._attempt(self._end_progress)

    def _attempt(self, show: Callable[[], None]) -> None:
        if not self._is_gone:
            try:
                show()
            except (OSError, ValueError):
                self._is_gone = True  # the terminal or the pipe was closed

    def _show_progress(self, event: Event) -> None:
        known = self._counts.get((event["unit"], event["total"]))
        is_first = known is None or event["done"] < known.done
        if known is None or is_first:
            known = _Count(event["done"], self._clock(), event["done"])
            self._counts[event["unit"], event["total"]] = known
        known.done = event["done"]
        self._fields = self._describe_progress(event, known)
        if event["done"] >= event["total"]:
            self._end_progress()
        elif is_first or self._clock() - self._shown_at >= self.interval_seconds:
            self._shown_at = self._clock()
            self._draw(event)

    def _describe_progress(self, event: Event, count: _Count) -> list[str]:
        """Return stage, text, progress, rate and the time left.

        The time left comes from the clock alone, over everything since the first report: so it includes work between
        the steps, such as validation and saving.
        """
        unit, done, total = event["unit"].removesuffix("s"), event["done"], event["total"]
        fields = [self._stage, *filter(None, [event["text"]]), f"{unit} {done:,}/{total:,}"]
        if self._train is not None and unit == "step":
            fields += describe_training(self._train)
        elif event["rate"] is not None:
            fields.append(rate(event["rate"], unit))
        seconds, counted = self._clock() - count.first_time, done - count.first_done
        if counted and done < total:
            fields.append(f"{_LEFT}{duration(seconds / counted * (total - done))}")
        return fields

    def _end_progress(self) -> None:
        """Leave the newest progress as a line."""
        if self._fields is not None:
            self._print("  ".join(self._fields), "")
            self._fields = None

    @abc.abstractmethod
    def _draw(self, event: Event) -> None:
        """Show the newest progress of an unfinished counter."""

    @abc.abstractmethod
    def _print(self, line: str, style: str) -> None:
        """Write one permanent line."""


class PlainDisplay(Display):
    """Complete lines for logs and pipes."""

    interval_seconds = 10.0

    def __init__(self, stage: str, stream: TextIO, clock: Clock = time.monotonic) -> None:
        super().__init__(stage, clock)
        self._stream = stream

    def _draw(self, event: Event) -> None:
        self._end_progress()

    def _print(self, line: str, style: str) -> None:
        self._stream.write(printable(line, self._stream.encoding or "utf-8") + "\n")
        self._stream.flush()


class TerminalDisplay(Display):
    """One bar at the bottom of the terminal, the lines of other events above it."""

    interval_seconds = 0.2

    def __init__(self, stage: str, console: Console, clock: Clock = time.monotonic) -> None:
        super().__init__(stage, clock)
        self._console = console
        self._bar: Progress | None = None

    def _draw(self, event: Event) -> None:
        assert self._fields is not None
        stage, *fields = (printable(field, self._console.encoding) for field in self._fields)
        # On a narrow terminal the fields in the middle go first: the rate and the time left stay.
        while len(fields) > 2 and len("  ".join([stage, *fields])) + _NARROWEST_BAR + 2 > self._console.width:
            del fields[-3]
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", "bold", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}", markup=False),
                console=self._console,
                auto_refresh=False,
                transient=True,
                expand=True,
            )
            self._bar.add_task(stage, text="")
            self._bar.start()
        (task,) = self._bar.task_ids
        text = "  ".join(fields)
        self._bar.update(task, total=event["total"], completed=event["done"], text=text, refresh=True)

    def _end_progress(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
        super()._end_progress()

    def _print(self, line: str, style: str) -> None:
        self._console.print(Text(printable(line, self._console.encoding), style), soft_wrap=True)
