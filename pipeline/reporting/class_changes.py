"""The classes whose errors differ most between two runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.reporting.class_errors import ClassErrors, read_class_errors

NUM_CHANGES = 12


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """A class in this run and in the other one."""

    now: ClassErrors
    other: ClassErrors

    @property
    def percent(self) -> float:
        """Percent points by which the top-1 error is higher in this run."""
        return self.now.top1_error_percent - self.other.top1_error_percent


@dataclasses.dataclass(frozen=True)
class Comparison:
    """This run's classes beside those of another run, under one crop plan."""

    run: str
    plan: str
    better: tuple[ClassChange, ...]
    """The largest gains, largest first; so the next with losses."""
    worse: tuple[ClassChange, ...]
    unchanged: int
    """Classes with as many errors in both."""
    classes: int


def compare(run: Path, evaluate: Path, own: Path) -> Comparison:
    """Compare the finished evaluation in the folder `own` with that of `run` in `evaluate`.

    The plan is the first of ours that both have. Raises UserError if there is none, or if the classes or their numbers
    of images differ.
    """
    ours, theirs = _class_tables(own), _class_tables(evaluate)
    plan = next((name for name in ours if name in theirs), None)
    if plan is None:
        raise UserError(
            f"report.compare: {run} has no errors under a plan of this run, {', '.join(ours)} (it has: "
            f"{', '.join(theirs) or 'none'})"
        )
    classes = read_class_errors(ours[plan])
    others = {row.folder: row for row in read_class_errors(theirs[plan])}
    if {row.folder: row.images for row in classes} != {row.folder: row.images for row in others.values()}:
        raise UserError(f"report.compare: {run} was evaluated on other classes or images")
    changes = [ClassChange(row, others[row.folder]) for row in classes]
    ordered = sorted(changes, key=lambda change: (change.percent, change.now.label))
    better = tuple(change for change in ordered if change.percent < 0)[:NUM_CHANGES]
    worse = tuple(change for change in reversed(ordered) if change.percent > 0)[:NUM_CHANGES]
    return Comparison(str(run), plan, better, worse, sum(change.percent == 0 for change in changes), len(changes))


def _class_tables(evaluate: Path) -> dict[str, Path]:
    """Return the tables by plan; empty if the images have no labels."""
    results = json.loads((evaluate / "results.json").read_text())
    return {result["name"]: evaluate / result["per_class"] for result in results["plans"] if "per_class" in result}
