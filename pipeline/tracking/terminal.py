"""What a person sees of a stage: a bar with rate and time left on a terminal, plain lines everywhere else."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.tracking.events import Event
from pipeline.tracking.wording import clock_time, describe, describe_training, printable, rate

Clock = Callable[[], float]

PLAIN_INTERVAL_SECONDS = 10.0
_REDRAW_INTERVAL_SECONDS = 0.2
_NARROWEST_BAR = 8


class Display(Protocol):
    """A listener with an end. Events may come from any thread; a terminal that goes away never disturbs the stage."""

    def __call__(self, event: Event) -> None:
        """Show the event, if it is one that is shown."""
        ...

    def close(self) -> None:
        """Show what is still to be shown and give the terminal back."""
        ...


def open_display(stage: str, stream: TextIO, clock: Clock = time.monotonic) -> Display:
    """The display that suits `stream`: a bar on a terminal that can move its cursor, plain lines elsewhere."""
    if stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        return TerminalDisplay(stage, Console(file=stream, force_terminal=True, highlight=False), clock)
    return PlainDisplay(stage, stream, clock)


class PlainDisplay:
    """Complete lines for logs and pipes: every event that matters, and progress at most every ten seconds, but always
    the first and the last of it."""

    def __init__(self, stage: str, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stage = stage
        self._stream: TextIO | None = stream
        self._clock = clock
        self._progress = _Progress(stage, clock)
        self._lock = threading.Lock()
        self._shown_at = float("-inf")
        self._held_back = False

    def __call__(self, event: Event) -> None:
        """Print the event's line, unless it is progress and it is too early for another line of it."""
        with self._lock:
            if event["kind"] == "train":
                self._progress.train = event
            elif event["kind"] == "progress":
                self._progress.update(event)
                self._held_back = True
                early = self._clock() - self._shown_at < PLAIN_INTERVAL_SECONDS
                if self._progress.is_first or self._progress.is_last or not early:
                    self._print_progress()
            else:
                line = describe(self._stage, event)
                if line is not None:
                    self._print(line)

    def close(self) -> None:
        """Print the newest progress if it was held back."""
        with self._lock:
            if self._held_back:
                self._print_progress()

    def _print_progress(self) -> None:
        self._shown_at = self._clock()
        self._held_back = False
        self._print("  ".join(self._progress.fields()))

    def _print(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(printable(line, self._stream.encoding or "utf-8") + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None  # whoever read the pipe has gone


class TerminalDisplay:
    """One bar at the bottom of the terminal, the lines of other events above it."""

    def __init__(self, stage: str, console: Console, clock: Clock = time.monotonic) -> None:
        self._stage = stage
        self._console: Console | None = console
        self._clock = clock
        self._progress = _Progress(stage, clock)
        self._lock = threading.Lock()
        self._drawn_at = float("-inf")
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Redraw the bar, or print the event's line above it."""
        with self._lock:
            try:
                if self._console is not None:
                    self._show(self._console, event)
            except (OSError, ValueError):
                self._console = None  # the terminal was closed

    def close(self) -> None:
        """Take the bar away, leaving its last state as a line."""
        with self._lock:
            try:
                if self._console is not None and self._live is not None:
                    self._end_bar(self._console)
            except (OSError, ValueError):
                self._console = None

    def _show(self, console: Console, event: Event) -> None:
        if event["kind"] == "train":
            self._progress.train = event
            return
        if event["kind"] != "progress":
            line = describe(self._stage, event)
            if line is not None:
                is_warning = event["kind"] == "note" and event["level"] == "warning"
                _print(console, line, "yellow" if is_warning else "")
            return
        self._progress.update(event)
        if self._progress.is_last:
            self._end_bar(console)
        elif self._live is None:
            self._drawn_at = self._clock()
            self._live = Live(self._bar(console), console=console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)
        elif self._progress.is_first or self._clock() - self._drawn_at >= _REDRAW_INTERVAL_SECONDS:
            self._drawn_at = self._clock()
            self._live.update(self._bar(console), refresh=True)

    def _bar(self, console: Console) -> Table:
        fields = [printable(field, console.encoding) for field in self._progress.fields()]
        # Where the terminal is narrow the fields in the middle go first: the stage, the rate and the time left stay.
        while len(fields) > 3 and sum(map(len, fields)) + 2 * len(fields) + _NARROWEST_BAR > console.width:
            del fields[-3]
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1, min_width=_NARROWEST_BAR)
        row.add_column(no_wrap=True)
        bar = ProgressBar(total=self._progress.total, completed=self._progress.done)
        row.add_row(Text(fields[0], "bold"), bar, Text("  ".join(fields[1:])))
        return row

    def _end_bar(self, console: Console) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        _print(console, "  ".join(self._progress.fields()))


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(Text(printable(line, console.encoding), style), soft_wrap=True)


@dataclasses.dataclass
class _Count:
    """One thing being counted, and where this process began with it."""

    first_done: int
    first_time: float
    done: int


class _Progress:
    """The newest state of whatever the stage is counting, and how long the rest will take.

    The time left comes from the clock alone, over everything since the first report: so it has in it what happens
    between the steps, validation and saving for instance.
    """

    def __init__(self, stage: str, clock: Clock) -> None:
        self.train: Event | None = None
        """What training said last, shown with its steps."""
        self.is_first = False
        """Whether the newest event began to count something."""
        self._stage = stage
        self._clock = clock
        self._counts: dict[tuple[str, int], _Count] = {}
        self._count = _Count(0, 0.0, 0)
        self._event: Event | None = None

    def update(self, event: Event) -> None:
        """Take a progress event in."""
        key = (event["unit"], event["total"])
        known = self._counts.get(key)
        self.is_first = known is None or event["done"] < known.done
        if known is None or self.is_first:
            known = self._counts[key] = _Count(event["done"], self._clock(), event["done"])
        known.done = event["done"]
        self._count, self._event = known, event

    @property
    def done(self) -> int:
        """How far it is."""
        return self._count.done

    @property
    def total(self) -> int:
        """How far it goes."""
        return int(self._event["total"]) if self._event is not None else 0

    @property
    def is_last(self) -> bool:
        """Whether there is nothing left to count."""
        return self._event is not None and self.done >= self.total

    def fields(self) -> list[str]:
        """The stage, what it says, how far it is, its rate, and the time left (or at the end, taken)."""
        assert self._event is not None
        unit = self._event["unit"].removesuffix("s")
        said = [self._event["text"]] if self._event["text"] else []
        position = f"{unit} {self.done:,}/{self.total:,}"
        if self.train is not None and unit == "step":
            numbers = describe_training(self.train)
        else:
            numbers = [] if self._event["rate"] is None else [rate(self._event["rate"], unit)]
        return [self._stage, *said, position, *numbers, *self._time()]

    def _time(self) -> list[str]:
        counted = self._count.done - self._count.first_done
        seconds = self._clock() - self._count.first_time
        if self.is_last:
            return [f"took {clock_time(seconds)}"]
        return [f"ETA {clock_time(seconds / counted * (self.total - self.done))}"] if counted else []
