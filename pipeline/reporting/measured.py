"""The rows of a table of the paper, and what runs have measured of them. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.identity import identity
from pipeline.config.network import ModelConfig
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.networks.layers import TRACED_CLASSES, Cost, layer_table, variant_cost
from pipeline.networks.registry import NETWORKS, SEBlock
from pipeline.paper.tables import Row, Table
from pipeline.running.attempts import read_attempts
from pipeline.running.stage import Stage, place_stages
from pipeline.store.seal import BrokenSeal, read_seal

_TRAINING = ("data", "input", "model", "augmentation", "optim", "schedule", "train", "freeze_bn", "execution")
_STUDENTS_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Its 97.5 % quantile, from one degree of freedom on; with more it is nearly the normal distribution's."""
_NORMAL = 1.96


@dataclasses.dataclass(frozen=True)
class MeasuredRun:
    """A run that is evaluated."""

    directory: Path
    config: Config
    errors: Mapping[str, Mapping[str, Any]]
    """By crop plan."""
    cost: tuple[int, float] | None
    """Parameters and GMAC of the network that it built."""
    seconds: float
    """Time that its training took, of all attempts whose end is recorded."""

    @property
    def setting(self) -> tuple[str, str]:
        """All that its training depends on beside seed and network, and a title for it."""
        config = self.config
        if config.evaluate.weights is not None:
            return "weights", f"weights of others on {config.data.dataset}"
        found = identity(config, _TRAINING)
        for name in ("model.name", "model.se"):
            found.pop(name, None)
        return json.dumps(found, sort_keys=True), f"{config.data.dataset}, {config.train.epochs} epochs"

    @property
    def base(self) -> str:
        """Its network without the block."""
        return self.config.model.name.removeprefix("se_")

    def of_row(self, table: Table, row: Row) -> Mapping[str, Any] | None:
        """Return the errors that belong into a row of a table; None if it is no run of that row."""
        config, model = self.config, self.config.model
        if row.model is None:
            return None
        if table.compares_blocks:
            if _variant(model) != _variant(ModelConfig.of_row(row)):
                return None
        elif (model.title, config.data.dataset) != (row.model, table.dataset):
            return None
        if row.crop is None or config.data.dataset != "imagenet":
            return self.errors[config.evaluate.plans[0].name]
        trained = config.train.image_size_px if config.evaluate.weights is None else NETWORKS[model.name].image_size_px
        if trained != (row.trained_px or row.crop[1]):
            return None
        resize_px, crop_px = row.crop
        for plan in config.evaluate.plans:
            if (crop := plan.center_crop) and crop[1] == crop_px and resize_px in (None, crop[0]):
                return self.errors[plan.name]
        return None


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
    setting: str = ""
    """Images and epochs; empty if nothing was run."""
    runs: int = 0
    top1: Figure | None = None
    top5: Figure | None = None
    difference: float | None = None
    """Of the mean top-1 errors, to the baseline of the same setting."""
    uncertainty: float | None = None
    """Half the 95 % interval of the difference; None if no row of the setting has a second seed."""
    cost: tuple[int, float] | None = None
    """Parameters and GMAC."""
    seconds: float | None = None
    """Mean time of a training."""


def read_runs(paths: Iterable[Path], stages: Sequence[Stage]) -> tuple[list[MeasuredRun], list[Path]]:
    """Read the runs in run directories and directories of runs, each once. Returns those evaluated, and the others'
    directories.

    Raises UserError if a path is neither.
    """
    measured, others = [], []
    seen: set[Path] = set()
    for path in paths:
        runs = (
            [path] if (path / RUN_CONFIG).is_file() else [file.parent for file in sorted(path.glob(f"*/{RUN_CONFIG}"))]
        )
        if not runs:
            raise UserError(f"{path}: neither a run directory nor a directory of runs (no {RUN_CONFIG} in it)")
        for run in runs:
            if run.resolve() in seen:
                continue
            seen.add(run.resolve())
            found = _read_run(run, stages)
            if found is None:
                others.append(run)
            else:
                measured.append(found)
    return measured, others


def _read_run(run: Path, stages: Sequence[Stage]) -> MeasuredRun | None:
    config = read_run_config(run)
    placed = place_stages(config, run, stages)
    try:
        seal = read_seal(placed["evaluate"].directory, "stage")
        built = read_seal(placed["build"].directory, "stage") if "build" in placed else None
    except BrokenSeal as error:
        raise UserError(f"{error}\ndelete its directory and run that stage of {run} again") from error
    if seal is None or config.evaluate.split != "val":
        return None
    cost = (
        None if built is None else (int(built.about["metrics"]["parameters"]), float(built.about["metrics"]["gmacs"]))
    )
    training = [stage.directory for stage in placed.values() if stage.stage.is_training]
    ended = [each for place in training for each in read_attempts(place) if each.end is not None]
    seconds = sum(each.end - each.start for each in ended if each.end is not None)
    return MeasuredRun(run, config, seal.about["metrics"], cost, seconds)


def lines_of(table: Table, runs: Sequence[MeasuredRun]) -> list[Line]:
    """Return a line for each row and setting, in the order of the table, and one for each row that was not run."""
    found: dict[tuple[str, str], dict[str, Line]] = {}
    rows = rows_of(table, runs)
    for row in rows:
        for run in runs:
            if (errors := run.of_row(table, row)) is not None:
                key, title = run.setting
                known = None if table.compares_blocks else network_cost(table, row)
                base = f"{run.base} on " if table.compares_blocks else ""
                lines = found.setdefault((base + key, base + title), {})
                lines[_id(row)] = _with_run(lines.get(_id(row), Line(row, base + title, cost=known)), run, errors)
    compared = {setting: _compared(lines) for setting, lines in found.items()}
    return [line for row in rows for line in _of_row(table, row, compared.values())]


def rows_of(table: Table, runs: Sequence[MeasuredRun]) -> tuple[Row, ...]:
    """Return the rows of a table; of one that compares blocks also the network without one if it was run."""
    if table.compares_blocks and all(row.block is not None for row in table.rows):
        baseline = next(row for row in table.rows if row.baseline is None)
        without = Row("without the block", baseline.model, None, baseline=baseline.name)
        if any(run.of_row(table, without) is not None for run in runs):
            return (without, *table.rows)
    return table.rows


def _of_row(table: Table, row: Row, settings: Iterable[Mapping[str, Line]]) -> list[Line]:
    lines = [lines[_id(row)] for lines in settings if _id(row) in lines]
    return lines or [Line(row, cost=network_cost(table, row))]


def _with_run(line: Line, run: MeasuredRun, errors: Mapping[str, Any]) -> Line:
    def added(figure: Figure | None, name: str) -> Figure | None:
        if name not in errors:
            return None
        return Figure((*(figure.values if figure else ()), errors[name]))

    return dataclasses.replace(
        line,
        runs=line.runs + 1,
        top1=added(line.top1, "top1_error_percent"),
        top5=added(line.top5, "top5_error_percent"),
        cost=run.cost or line.cost,
        seconds=((line.seconds or 0.0) * line.runs + run.seconds) / (line.runs + 1),
    )


def _compared(lines: Mapping[str, Line]) -> dict[str, Line]:
    """Add the differences to the baselines. Their uncertainty takes one deviation over seeds for all rows."""
    figures = [line.top1 for line in lines.values() if line.top1 is not None]
    degrees = sum(len(figure.values) - 1 for figure in figures)
    squares = sum((len(figure.values) - 1) * (figure.deviation or 0.0) ** 2 for figure in figures)
    compared = {}
    for key, line in lines.items():
        baseline = next((other for other in lines.values() if other.row.name == line.row.baseline), None)
        if baseline is not None and baseline.top1 is not None and line.top1 is not None:
            uncertainty = None
            if degrees:
                error = math.sqrt(squares / degrees * (1 / line.runs + 1 / baseline.runs))
                uncertainty = error * (_STUDENTS_T[degrees - 1] if degrees <= len(_STUDENTS_T) else _NORMAL)
            line = dataclasses.replace(line, difference=line.top1.mean - baseline.top1.mean, uncertainty=uncertainty)
        compared[key] = line
    return compared


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


def _id(row: Row) -> str:
    return f"{row.name} {row.crop}"


def _variant(model: ModelConfig) -> SEBlock | None:
    """Return the block but for its biases, which the paper's ablations leave out, and others need not."""
    return None if model.block is None else dataclasses.replace(model.block, bias=True)
