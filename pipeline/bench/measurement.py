"""Contestants that take turns in one process, and what each round of each cost.

Machines are shared and their clocks change, so two programs are only compared within one run, round by round, and the
seconds that all cores together worked are recorded beside those on the clock. Never imports torch.
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
"""ours: what this project does by default. peer: what a user would pick instead. other: for information."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a contestant did in one round."""

    units: int
    """Images, steps or whatever the benchmark counts."""
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Anything else that it measured itself, by the name of a `Quantity`."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One of the things that are compared."""

    name: str
    role: Role
    run: Callable[[], Work]
    """One round; all it began must be over when it returns, or `settle` must wait for it."""
    settle: Callable[[], Mapping[str, float]] = dict
    """Called after each round and not timed: waits, tidies up, and returns further figures."""


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of one contestant."""

    units: int
    wall_seconds: float
    cpu_seconds: float
    """Of this process, all its threads, and all processes below it."""
    figures: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """All rounds of one contestant, in the order they were run."""

    name: str
    role: Role
    rounds: tuple[Round, ...]


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle of several values, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def measure(
    contestants: Sequence[Contestant],
    rounds: int,
    *,
    warm_up: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Let all contestants run `rounds` times in turn, after `warm_up` rounds that are not recorded.

    Each round begins with another contestant, so that none always follows the same one. The measurements come in the
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
    """One timed round."""
    cpu_before, before = cpu_seconds(), time.perf_counter()
    work = contestant.run()
    wall, cpu = time.perf_counter() - before, cpu_seconds() - cpu_before
    return Round(work.units, wall, cpu, {**work.figures, **contestant.settle()})


def cpu_seconds() -> float:
    """User and system time so far of this process, of its children that have ended and of all living ones below it.

    A child that ends in between is counted once: what it used moves to the process that waited for it.
    """
    used = os.times()
    living = sum(_process_seconds(process) for process in _living_descendants(os.getpid()))
    # The process's own clock is the finer one: the others count in ticks of a hundredth of a second.
    return time.process_time() + used.children_user + used.children_system + living


def _process_seconds(process: int) -> float:
    """Of a living process and of its own children that have ended."""
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
