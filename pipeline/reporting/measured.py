"""The rows of a table of the paper, and what runs have measured of them. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pipeline.config.crop_plan import CropPlan
from pipeline.config.differences import differing_keys
from pipeline.config.network import ModelConfig
from pipeline.ground.intervals import NORMAL_QUANTILE
from pipeline.networks.layers import TRACED_CLASSES, Cost, layer_table, variant_cost
from pipeline.paper.tables import Row, Table
from pipeline.reporting.measured_run import MeasuredRun

_STUDENTS_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Its 97.5 % quantile, from one degree of freedom on; with more it is nearly the normal distribution's."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of one or several runs that differ in their seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Their standard deviation; None of a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the paper, with the runs of one setting if there are any."""

    row: Row
    cost: tuple[int, float] | None = None
    """Parameters and GMAC."""
    measured: tuple[tuple[MeasuredRun, CropPlan], ...] = ()
    """The runs, each with the crop plan that the row is about."""
    repeated: tuple[tuple[MeasuredRun, MeasuredRun], ...] = ()
    """Runs that are not counted, each with the one that evaluated the same training."""
    setting: str = ""
    """Images and epochs, and what tells the setting from others; empty if nothing was run."""
    difference: float | None = None
    """Of the mean top-1 errors, to the baseline of the same setting."""
    uncertainty: float | None = None
    """Half the 95 % interval of the difference; None if no row of the setting has a second seed."""

    @property
    def runs(self) -> int:
        """Their number."""
        return len(self.measured)

    @property
    def top1(self) -> Figure | None:
        """Their top-1 errors."""
        return self._figure("top1_error_percent")

    @property
    def top5(self) -> Figure | None:
        """Their top-5 errors; None if one has none."""
        return self._figure("top5_error_percent")

    @property
    def seconds(self) -> float | None:
        """Mean time of a training."""
        return statistics.fmean(run.seconds for run, _ in self.measured) if self.measured else None

    @property
    def variety(self) -> str:
        """That of its runs."""
        return self.measured[0][0].variety if self.measured else ""

    def _figure(self, name: str) -> Figure | None:
        found = [run.errors[plan.name] for run, plan in self.measured]
        if not found or any(name not in errors for errors in found):
            return None
        return Figure(tuple(errors[name] for errors in found))

    def with_run(self, run: MeasuredRun, plan: CropPlan) -> Line:
        """Return the line with another run."""
        same = next((other for other, _ in self.measured if other.training == run.training), None)
        if same is not None:
            return dataclasses.replace(self, repeated=(*self.repeated, (run, same)))
        return dataclasses.replace(self, measured=(*self.measured, (run, plan)), cost=run.cost or self.cost)


def lines_of(table: Table, runs: Sequence[MeasuredRun]) -> list[Line]:
    """Return a line for each row and setting, in the order of the table, and one for each row that was not run."""
    found: dict[str, dict[tuple[int, str], Line]] = {}
    rows = rows_of(table, runs)
    for number, row in enumerate(rows):
        for run in runs:
            if (plan := run.plan_of(table, row)) is not None:
                base = run.base if table.compares_blocks else ""
                lines = found.setdefault(json.dumps([base, run.setting(plan)], sort_keys=True), {})
                known = None if table.compares_blocks else network_cost(table, row)
                key = number, run.variety
                lines[key] = lines.get(key, Line(row, known)).with_run(run, plan)
    settings = [list(lines.values()) for lines in found.values()]
    compared = [_compared(lines) for lines in _titled(table, settings)]
    return [line for row in rows for line in _of_row(table, row, compared)]


def _titled(table: Table, settings: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Add the titles of the settings; to those that would be the same, what the settings differ in."""
    first = [lines[0].measured[0] for lines in settings]
    titles = [f"{run.base} on {run.title}" if table.compares_blocks else run.title for run, _ in first]
    titled = []
    for lines, title, (this, _) in zip(settings, titles, first, strict=True):
        alike = [one for one, other in zip(first, titles, strict=True) if other == title]
        parts = [title, *_differences(alike, [run for run, _ in alike].index(this))]
        is_one = this.is_trained and len({line.variety for line in lines} - {""}) == 1
        added = [[] if is_one or not line.variety else [line.variety] for line in lines]
        titled.append(
            [
                dataclasses.replace(line, setting=", ".join([*parts, *more]))
                for line, more in zip(lines, added, strict=True)
            ]
        )
    return titled


def _differences(runs: Sequence[tuple[MeasuredRun, CropPlan]], place: int) -> list[str]:
    """Return the keys in which the settings of some runs differ, with the values of one of them."""
    facts = [run.setting(plan) for run, plan in runs]
    known = differing_keys([run.config for run, _ in runs])
    keys = [
        key
        for key in dict.fromkeys(itertools.chain(*facts))
        if any(each.get(key) != facts[0].get(key) for each in facts)
    ]
    return [f"{key} {known[key][place] if key in known else facts[place].get(key, 'none')}" for key in keys]


def rows_of(table: Table, runs: Sequence[MeasuredRun]) -> tuple[Row, ...]:
    """Return the rows of a table; of one that compares blocks also the network without one if it was run."""
    if table.compares_blocks and all(row.block is not None for row in table.rows):
        baseline = next(row for row in table.rows if row.baseline is None)
        without = Row("without the block", baseline.model, None, baseline=baseline.name)
        if any(run.plan_of(table, without) is not None for run in runs):
            return (without, *table.rows)
    return table.rows


def _of_row(table: Table, row: Row, settings: Iterable[Sequence[Line]]) -> list[Line]:
    lines = [line for lines in settings for line in lines if line.row == row]
    return lines or [Line(row, network_cost(table, row))]


def _compared(lines: Sequence[Line]) -> list[Line]:
    """Add the differences to the baselines. Their uncertainty takes one deviation over seeds for all rows."""
    figures = [line.top1 for line in lines if line.top1 is not None]
    degrees = sum(len(figure.values) - 1 for figure in figures)
    squares = sum((len(figure.values) - 1) * (figure.deviation or 0.0) ** 2 for figure in figures)
    compared = []
    for line in lines:
        baseline = _baseline(line, lines)
        if baseline is not None and baseline.top1 is not None and line.top1 is not None:
            uncertainty = None
            if degrees:
                error = math.sqrt(squares / degrees * (1 / line.runs + 1 / baseline.runs))
                uncertainty = error * (_STUDENTS_T[degrees - 1] if degrees <= len(_STUDENTS_T) else NORMAL_QUANTILE)
            line = dataclasses.replace(line, difference=line.top1.mean - baseline.top1.mean, uncertainty=uncertainty)
        compared.append(line)
    return compared


def _baseline(line: Line, lines: Iterable[Line]) -> Line | None:
    """Return the only line that a line can be compared with; blocks with biases are no baseline of those without."""
    is_trained = line.measured[0][0].is_trained
    found = [
        other
        for other in lines
        if other.row.name == line.row.baseline
        and (not is_trained or line.variety == other.variety or "" in (line.variety, other.variety))
    ]
    return found[0] if len(found) == 1 else None


def network_cost(table: Table, row: Row, size_px: int | None = None) -> tuple[int, float] | None:
    """Return parameters and GMAC of a row's network by the layer tables, for its crop or for images of `size_px`; None
    if it is not ours."""
    if row.model is None:
        return None
    if isinstance(row.block, Mapping):
        return variant_cost(ModelConfig.of_row(row).title)
    num_classes = {"cifar10": 10, "cifar100": 100}.get(table.dataset or "", TRACED_CLASSES)
    cost = Cost.of(layer_table(row.model, num_classes, size_px or (row.crop[1] if row.crop is not None else None)))
    return cost.parameters, cost.macs / 1e9
