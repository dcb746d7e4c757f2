"""Measurements as a table for people and as plain values for a file. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.bench.measurement import Measurement, Round, Spread


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A value of every round of every contestant."""

    name: str
    """Name with unit, the heading of the column."""
    of: Callable[[Round], float | None]
    """Returns None if a contestant has no such value."""
    more_is_better: bool = False
    digits: int = 2

    def spread(self, measurement: Measurement) -> Spread | None:
        """Return median and range over the rounds, or None if the contestant has no such value."""
        values = [value for done in measurement.rounds if (value := self.of(done)) is not None]
        return Spread.of(values) if values else None


def figure(name: str) -> Quantity:
    """Return the quantity that contestants report under `name` themselves."""
    return Quantity(name, lambda done: done.figures.get(name))


def per_unit(unit: str) -> tuple[Quantity, Quantity]:
    """Return the usual quantities: milliseconds of all cores for one unit, and units a second of wall time."""
    return (
        Quantity(f"CPU ms/{unit}", lambda done: 1e3 * done.cpu_seconds / done.units),
        Quantity(f"{unit}s/s", lambda done: done.units / done.wall_seconds, more_is_better=True, digits=1),
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contestants side by side. Ratios are of the first quantity."""

    title: str
    quantities: tuple[Quantity, ...]
    measurements: tuple[Measurement, ...]

    @property
    def ours(self) -> Measurement | None:
        """Return the best of ours, or None if there is none."""
        return self._best("ours")

    @property
    def best_peer(self) -> Measurement | None:
        """Return the best peer, or None if there is none."""
        return self._best("peer")

    def ratio(self, other: Measurement) -> Spread | None:
        """Return how many times better ours is than `other`, round by round; below 1 it is worse.

        Rounds are paired, so that a temporary slowdown of the machine affects both. Returns None for ours itself, if
        there is nothing to compare, and if a difference is not above 0 in every round: that is noise.
        """
        quantity, ours = self.quantities[0], self.ours
        if ours is None or other is ours:
            return None
        ratios = []
        for own_round, other_round in zip(ours.rounds, other.rounds, strict=False):
            own, others = quantity.of(own_round), quantity.of(other_round)
            if own is None or others is None:
                continue
            if own <= 0 or others <= 0:
                return None
            ratios.append(own / others if quantity.more_is_better else others / own)
        return Spread.of(ratios) if ratios else None

    def verdict(self) -> str | None:
        """Return one line about ours and the best peer."""
        ours, peer = self.ours, self.best_peer
        if ours is None or peer is None or (ratio := self.ratio(peer)) is None:
            return None
        outcome = "ahead of" if ratio.median >= 1 else "BEHIND"
        return (
            f"{ours.name} is {outcome} the best peer, {peer.name}: {ratio.median:.2f}x in {self.quantities[0].name} "
            f"({ratio.lowest:.2f} to {ratio.highest:.2f})"
        )

    def as_text(self) -> str:
        """Format the table, without a final newline."""
        rows = [("", *(quantity.name for quantity in self.quantities), "ours is better by")]
        for measurement in self.measurements:
            ratio = self.ratio(measurement)
            rows.append(
                (
                    measurement.name,
                    *(_cell(quantity, measurement) for quantity in self.quantities),
                    "" if ratio is None else f"{ratio.median:.2f}x ({ratio.lowest:.2f} to {ratio.highest:.2f})",
                )
            )
        verdict = self.verdict()
        return "\n".join([self.title, *aligned(rows), *([verdict] if verdict else [])])

    def as_fields(self) -> dict[str, Any]:
        """Return every round, the medians and the ratios, as plain values."""
        return {
            "title": self.title,
            "ratio_of": self.quantities[0].name,
            "ours": None if self.ours is None else self.ours.name,
            "best_peer": None if self.best_peer is None else self.best_peer.name,
            "verdict": self.verdict(),
            "contestants": [self._contestant(measurement) for measurement in self.measurements],
        }

    def _contestant(self, measurement: Measurement) -> dict[str, Any]:
        ratio = self.ratio(measurement)
        spreads = {quantity.name: quantity.spread(measurement) for quantity in self.quantities}
        return {
            "name": measurement.name,
            "role": measurement.role,
            **{name: None if spread is None else dataclasses.asdict(spread) for name, spread in spreads.items()},
            "ours_is_better_by": None if ratio is None else dataclasses.asdict(ratio),
            "rounds": [{**dataclasses.asdict(done), "figures": dict(done.figures)} for done in measurement.rounds],
        }

    def _best(self, role: str) -> Measurement | None:
        quantity = self.quantities[0]
        known = [
            (spread.median, measurement)
            for measurement in self.measurements
            if measurement.role == role and (spread := quantity.spread(measurement)) is not None
        ]
        if not known:
            return None
        best = max if quantity.more_is_better else min
        return best(known, key=lambda pair: pair[0])[1]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _cell(quantity: Quantity, measurement: Measurement) -> str:
    spread = quantity.spread(measurement)
    if spread is None:
        return "-"
    digits = quantity.digits
    if 0 < abs(spread.median) < 0.1:  # as a crop of CIFAR's size: three digits
        digits = 2 - math.floor(math.log10(abs(spread.median)))
    return f"{spread.median:,.{digits}f} ({spread.lowest:,.{digits}f} to {spread.highest:,.{digits}f})"
