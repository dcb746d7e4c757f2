"""Contestants that alternate in one process, and the cost of each round of each.

Machines are shared and their clocks change, so two programs are only compared within one run, round by round, and CPU
seconds of all cores are recorded beside the wall time. Imports no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

Role = Literal["ours", "peer", "other"]
"""ours: the default of this project. peer: the usual alternative. other: for information."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a contestant in one round."""

    units: int
    """Number of images, steps or other units that the benchmark counts."""
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Further figures that it measured itself, by the name of a `Quantity`."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One of the compared programs."""

    name: str
    role: Role
    run: Callable[[], Work]
    """Run one round; all its work must be over when it returns, or `settle` must wait for it."""
    settle: Callable[[], Mapping[str, float]] = dict
    """Called after each round and not timed: waits, cleans up, and returns further figures."""


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of one contestant."""

    units: int
    wall_seconds: float
    cpu_seconds: float
    """CPU seconds of this process, all its threads, and all processes below it."""
    figures: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """All rounds of one contestant in order."""

    name: str
    role: Role
    rounds: tuple[Round, ...]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of several values."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def measure(
    contestants: Sequence[Contestant],
    rounds: int,
    *,
    warm_up: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Let all contestants run `rounds` times in turn, after `warm_up` rounds that are not recorded.

    Each round begins with another contestant, so that none always follows the same one. Returns the measurements in the
    order of the contestants.
    """
    recorded: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    assert len(recorded) == len(contestants), "contestants need different names"
    for number in range(warm_up + rounds):
        first = max(0, number - warm_up) % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            kind = f"round {number - warm_up + 1} of {rounds}" if number >= warm_up else "warm-up"
            progress(f"{kind}: {contestant.name}")
            done = run_round(contestant)
            if number >= warm_up:
                recorded[contestant.name].append(done)
    return [
        Measurement(contestant.name, contestant.role, tuple(recorded[contestant.name])) for contestant in contestants
    ]


def run_round(contestant: Contestant) -> Round:
    """Run and time one round."""
    cpu_before, before = cpu_seconds(), time.perf_counter()
    work = contestant.run()
    wall, cpu = time.perf_counter() - before, cpu_seconds() - cpu_before
    return Round(work.units, wall, cpu, {**work.figures, **contestant.settle()})


def cpu_seconds() -> float:
    """Return user and system time so far of this process, its ended children and all living processes below it.

    A child that ends meanwhile is counted once: its time moves to the process that waited for it.
    """
    used = os.times()
    living = sum(_process_seconds(process) for process in _living_descendants(os.getpid()))
    # The process's own clock is more precise: the others count in ticks of a hundredth of a second.
    return time.process_time() + used.children_user + used.children_system + living


def _process_seconds(process: int) -> float:
    """Return the CPU seconds of a living process and of its ended children."""
    with contextlib.suppress(OSError):
        # The command's name, in parentheses, may hold anything; the fields behind it are numbers.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return float(sum(map(int, fields[11:15]))) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _living_descendants(process: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *_living_descendants(child)]
    return found
