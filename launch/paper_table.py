"""`python -m launch table`: a table of the paper beside what runs have measured, or the list of all."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from launch.console import say, show, table
from launch.estimate import PUBLISHED_IMAGES
from launch.packaged import packaged_folder
from pipeline.config.reader import load_config
from pipeline.ground.counting import counted
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.ground.interpreter import command_line
from pipeline.paper.tables import Row, Table, citation, contents, read_table, table_names
from pipeline.reporting.measured import Figure, Line, lines_of, network_cost, rows_of
from pipeline.reporting.measured_run import MeasuredRun, read_runs
from pipeline.tracking.wording import duration
from stages import STAGES

Format = Literal["terminal", "markdown", "csv", "html"]
Cells = list[tuple[str, ...]]
"""The headings, then a tuple for each line."""
_TEXTS = ("name", "title", "command", "state", "row", "recipe", "measured with", "to the baseline", "cost")
"""Columns that are no numbers."""
_BACKWARD = 3
"""Multiply-adds of a training step, for each of its forward pass."""
_FLOPS = 1e14
"""Operations a second that a GPU of today keeps up in 16 bits."""
_MINUS = "\N{MINUS SIGN}"


def print_table(name: str | None, runs: Sequence[Path], form: Format) -> int:
    """Print a table of the paper, or with no name the list of all. Returns the exit code."""
    if name is None:
        return _print_contents(form)
    if name not in table_names():
        said = next((f"; {each.title}: {each.state}" for each in contents() if each.name == name), "")
        raise UserError(f"{name}: no table of numbers{said} (there are: {', '.join(table_names())})")
    paper = read_table(name)
    if paper.state and runs:
        raise UserError(f"{name}: {paper.state}, so that no run is of it (given {runs[0]})")
    measured, others = read_runs(runs, STAGES)
    lines = lines_of(paper, measured)
    if form == "csv":
        _print_csv([_raw(line) for line in lines])
        return EXIT_DONE
    _print_cells(_cells(paper, lines), form, f"{paper.source}. {paper.caption}", _notes(paper, lines, measured, others))
    return EXIT_DONE


def _print_contents(form: Format) -> int:
    rows = [
        (
            each.name,
            each.title,
            command_line(*each.command.split()) if each.command else "",
            each.state or _state(each.name),
        )
        for each in contents()
    ]
    cells: Cells = [("name", "title", "command", "state"), *rows]
    if form == "csv":
        _print_csv([dict(zip(cells[0], row, strict=True)) for row in rows])
        return EXIT_DONE
    _print_cells(cells, form, f"The tables and figures of {citation()}", [])
    return EXIT_DONE


def _state(name: str) -> str:
    paper = read_table(name)
    ours = sum(recipe_of(row) is not None for row in paper.rows)
    return paper.state or f"{counted(len(paper.rows), 'row')}, {ours} with a recipe"


def recipe_of(row: Row) -> Path | None:
    """Return the recipe of a row; None if it has none."""
    folder = packaged_folder("configs")
    return next((path for path in sorted(folder.rglob(f"{row.recipe}.yaml")) if path.parent.name != "small"), None)


def _cells(paper: Table, lines: Sequence[Line]) -> Cells:
    """Return the lines as text; columns that would be empty are left out, and so are repeated cells of a row."""
    columns: dict[str, Callable[[Line], str]] = {
        "row": lambda line: line.row.name + (f", {line.row.crop[1]} px" if _has_sizes(paper) and line.row.crop else ""),
        "original top-1 / 5, %": lambda line: _pair(line.row.original),
        "paper's top-1 / 5, %": lambda line: _pair(line.row.errors),
        "AP50": lambda line: line.row.ap50 or "",
        "AP": lambda line: line.row.ap or "",
        "GFLOPs": lambda line: line.row.gflops or "",
        "M parameters": lambda line: line.row.parameters or "",
        "recipe": lambda line: _recipe(line.row),
        "measured with": lambda line: line.setting,
        "runs": lambda line: str(line.runs) if line.runs else "",
        "top-1, %": lambda line: _figure(line.top1),
        "top-5, %": lambda line: _figure(line.top5),
        "to the baseline": _difference,
        "parameters": lambda line: f"{line.cost[0]:,}" if line.cost else "",
        "GMAC": lambda line: f"{line.cost[1]:.4g}" if line.cost else "",
        "cost": lambda line: _cost(paper, line),
    }
    texts = {name: [text(line) for line in lines] for name, text in columns.items()}
    kept = {name: cells for name, cells in texts.items() if any(cells)}
    return [tuple(kept), *zip(*kept.values(), strict=True)]


def _recipe(row: Row) -> str:
    path = recipe_of(row)
    return "" if path is None else str(path.relative_to(packaged_folder("configs").parent))


def _has_sizes(paper: Table) -> bool:
    return len({row.name for row in paper.rows}) < len(paper.rows)


def _pair(errors: tuple[str, str | None] | None) -> str:
    return "" if errors is None else " / ".join(error for error in errors if error is not None)


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.mean:.2f}" if figure.deviation is None else f"{figure.mean:.2f} ± {figure.deviation:.2f}"


def _difference(line: Line) -> str:
    if line.difference is None:
        return ""
    text = f"{line.difference:+.2f}".replace("-", _MINUS)
    if line.uncertainty is None:
        return f"{text} (uncertainty unknown)"
    within = " (within it)" if abs(line.difference) <= line.uncertainty else ""
    return f"{text} ± {line.uncertainty:.2f}{within}"


def _cost(paper: Table, line: Line) -> str:
    """Return the time that a run took, or what those that are missing would cost."""
    if line.runs:
        return f"took {duration(line.seconds)} a run" if line.seconds else ""
    if (path := recipe_of(line.row)) is None:
        return ""
    block = ["sweep=null", f"model.se={json.dumps(line.row.block)}"] if paper.compares_blocks else []
    config = load_config(path, block)
    _, gmacs = network_cost(paper, line.row, config.train.image_size_px) or (0, 0.0)
    images = PUBLISHED_IMAGES[config.data.dataset] * config.train.epochs
    operations = 2 * _BACKWARD * gmacs * 1e9 * images
    number = "" if line.row.seeds == 1 else f"{line.row.seeds} x "
    bound = "at most " if config.schedule.kind == "plateau" else ""
    return f"{number}{bound}{operations / 1e18:.3g} EFLOP, {duration(operations / _FLOPS)}"


def _notes(
    paper: Table, lines: Sequence[Line], measured: Sequence[MeasuredRun], others: Mapping[Path, str]
) -> list[str]:
    notes = [f"{paper.state[0].upper()}{paper.state[1:]}: this project has no runs of it."] if paper.state else []
    if any(line.runs for line in lines):
        notes.append("Measured: mean ± standard deviation over seeds.")
    if any(map(_difference, lines)):
        notes[-1] += (
            " To the baseline: difference of the mean top-1 errors ± half its 95 % interval (Student's t, one "
            "deviation over seeds for all rows measured alike); within it, the difference may be chance."
        )
    if any(line.cost and not line.runs and recipe_of(line.row) for line in lines):
        notes.append(
            "Cost of rows not run: operations of forward and backward passes, two to a multiply-add, and the time of "
            f"one run at {_FLOPS / 1e12:.0f} TFLOP/s."
        )
    notes += [
        f"{run.directory}: the same training as {first.directory}, and not counted again"
        for line in lines
        for run, first in line.repeated
    ]
    unplaced = [run for run in measured if not any(run.plan_of(paper, row) for row in rows_of(paper, measured))]
    notes += [
        f"{run.directory}: no row of this table ({run.config.model.title}, {run.config.data.dataset})"
        for run in unplaced
    ]
    return notes + [f"{run}: {reason}" for run, reason in others.items()]


def _raw(line: Line) -> dict[str, object]:
    """Return a line as numbers, for programs."""
    row, (top1, top5) = line.row, line.row.errors or (None, None)
    return {
        "row": row.name,
        "crop_px": row.crop[1] if row.crop else None,
        "paper_top1_error_percent": top1,
        "paper_top5_error_percent": top5,
        "paper_gflops": row.gflops,
        "paper_parameters_millions": row.parameters,
        "recipe": _recipe(row),
        "setting": line.setting,
        "runs": line.runs,
        "top1_error_percent": line.top1.mean if line.top1 else None,
        "top1_deviation": line.top1.deviation if line.top1 else None,
        "top5_error_percent": line.top5.mean if line.top5 else None,
        "top5_deviation": line.top5.deviation if line.top5 else None,
        "difference": line.difference,
        "uncertainty": line.uncertainty,
        "parameters": line.cost[0] if line.cost else None,
        "gmacs": line.cost[1] if line.cost else None,
        "training_seconds": line.seconds,
    }


def _print_csv(rows: Sequence[dict[str, object]] | Sequence[dict[str, str]]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    say(content.getvalue().rstrip())


def _print_cells(cells: Cells, form: Format, caption: str, notes: Sequence[str]) -> None:
    if form == "markdown":
        lines = [" | ".join(row) for row in cells]
        rule = " | ".join("---" for _ in cells[0])
        body = "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))
        say("\n\n".join([caption, body, *notes]))
    elif form == "html":
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells[1:]]
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in cells[0])
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        after = "".join(f"\n<p>{html.escape(note)}</p>" for note in notes)
        say(
            f"<table>\n<caption>{html.escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>{after}"
        )
    else:
        say(f"{caption}\n")
        printed = table(*cells[0], numbers=[place for place, name in enumerate(cells[0]) if name not in _TEXTS])
        for row in cells[1:]:
            printed.add_row(*row)
        show(printed)
        for note in notes:
            say(f"\n{note}")
