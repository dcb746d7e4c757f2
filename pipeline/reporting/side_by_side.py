"""This run beside others: errors with the interval of their differences, recipes, classes and validation curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from pipeline.config.differences import differing_keys
from pipeline.evaluation.bootstrap import Bootstrap, Interval, wilson
from pipeline.evaluation.metrics import Ranking, rank_scores
from pipeline.ground.errors import UserError
from pipeline.reporting.class_errors import ClassErrors
from pipeline.reporting.finished_run import FinishedRun
from pipeline.reporting.plots import PALETTE, Plot, legend_above
from pipeline.tracking.events import Event

NUM_CLASSES = 24
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))


@dataclasses.dataclass(frozen=True)
class RunErrors:
    """The errors of one run under one crop plan."""

    run: int
    """Its place among the runs; 0 is this run."""
    top1: Interval
    top5_error_percent: float | None
    difference: Interval | None
    """By how much its top-1 error is higher than this run's, on the same images; None of this run, and if the images
    have other names."""

    @property
    def is_within_chance(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return self.difference is not None and self.difference.low <= 0 <= self.difference.high


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """Several runs that were evaluated on the same images, this one first."""

    names: tuple[str, ...]
    errors: Mapping[str, tuple[RunErrors, ...]]
    """By crop plan of this run; without the runs that were not evaluated under it."""
    recipes: Mapping[str, tuple[str, ...]]
    """Values by key, of the keys that differ."""
    plan: str
    """The crop plan of the classes: the first that all runs have."""
    classes: tuple[tuple[ClassErrors, ...], ...]
    """The classes whose errors differ most, largest spread first."""
    unchanged: int
    """Number of classes with as many errors in all runs."""
    num_classes: int
    validation: tuple[tuple[Event, ...], ...]


def side_by_side(runs: Sequence[FinishedRun], rankings: Mapping[str, Ranking]) -> SideBySide:
    """Compare the first run, whose rankings are given by crop plan, with the others.

    Raises UserError if there is no plan that all have, or if the classes or their numbers of images differ.
    """
    plan = _common_plan(runs)
    classes = _class_rows(runs, plan)
    changed = [rows for rows in classes if _spread(rows)]
    return SideBySide(
        names=tuple(run.name for run in runs),
        errors={name: tuple(_errors(runs, name, rankings[name])) for name in runs[0].plans},
        recipes=differing_keys([run.config for run in runs]),
        plan=plan,
        classes=tuple(changed[:NUM_CLASSES]),
        unchanged=len(classes) - len(changed),
        num_classes=len(classes),
        validation=tuple(run.training_events("validation") for run in runs),
    )


def validation_plot(runs: SideBySide) -> tuple[Plot, ...]:
    """Plot the top-1 errors of all runs by epoch. Returns none unless two of them were trained."""
    curves = [
        (_title(number), events, [event["top1_error_percent"] for event in events])
        for number, events in enumerate(runs.validation)
        if events
    ]
    if len(curves) < 2:
        return ()

    def draw(axes: Axes) -> None:
        colors = (PALETTE.line, PALETTE.accent, PALETTE.text, PALETTE.muted)
        for number, (title, events, errors) in enumerate(curves):
            axes.plot(
                [event["epoch"] for event in events],
                errors,
                color=colors[number % len(colors)],
                linestyle=_DASHES[number // len(colors) % len(_DASHES)],
                linewidth=1.4,
                label=title,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel("top-1 validation error, %")
        axes.set_ylim(bottom=0)
        legend_above(axes)

    told = "; ".join(
        f"{title} {errors[-1]:.2f} % at the end, {min(errors):.2f} % at best" for title, _, errors in curves
    )
    return (Plot("runs", f"Top-1 error on the validation images by epoch: {told}", draw),)


def _title(number: int) -> str:
    return f"run {number}" if number else "this run"


def _common_plan(runs: Sequence[FinishedRun]) -> str:
    plans = runs[0].plans
    for plan in plans:
        if all(_has_errors(run, plan) for run in runs):
            return plan
    theirs = "; ".join(f"{run.name}: {', '.join(run.plans)}" for run in runs[1:])
    raise UserError(
        f"report.compare: all runs must have errors under one plan of this run, {', '.join(plans)} (given {theirs})"
    )


def _class_rows(runs: Sequence[FinishedRun], plan: str) -> list[tuple[ClassErrors, ...]]:
    """Return each class in all runs, those that differ most first."""
    tables = [{row.folder: row for row in run.class_errors(plan)} for run in runs]
    images = [{row.folder: row.images for row in table.values()} for table in tables]
    for run, found in zip(runs, images, strict=True):
        if found != images[0]:
            raise UserError(f"report.compare: {run.name} was evaluated on other classes or images")
    return sorted((tuple(table[folder] for table in tables) for folder in tables[0]), key=_spread, reverse=True)


def _has_errors(run: FinishedRun, plan: str) -> bool:
    return "per_class" in run.plans.get(plan, {})


def _errors(runs: Sequence[FinishedRun], plan: str, ours: Ranking) -> Iterator[RunErrors]:
    bootstrap = Bootstrap(runs[0].config.seed, runs[0].config.fuse.bootstrap_samples)
    own = runs[0].scores(plan).description
    for number, run in enumerate(runs):
        if not _has_errors(run, plan):
            continue
        result, scores, difference = run.plans[plan], run.scores(plan), None
        rows = (scores.description.images_sha256, scores.description.classes_sha256)
        if number and rows == (own.images_sha256, own.classes_sha256):
            theirs = rank_scores(scores.array, ours.labels)
            difference = bootstrap.difference(ours.ranks > 0, theirs.ranks > 0, f"{run.name} {plan}")
        top1 = wilson(result["top1_errors"], result["images"])
        yield RunErrors(number, top1, result.get("top5_error_percent"), difference)


def _spread(rows: Sequence[ClassErrors]) -> float:
    percents = [row.top1_error_percent for row in rows]
    return max(percents) - min(percents)
