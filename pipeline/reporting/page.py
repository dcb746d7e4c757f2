"""The report: the page, and everything that its template is filled with."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.data.findings import count_findings
from pipeline.data.index import UNLABELLED, ImageIndex
from pipeline.evaluation.ensemble import FUSED_PLAN
from pipeline.evaluation.metrics import is_telling
from pipeline.ground.counting import counted
from pipeline.paper.statements import contest
from pipeline.paper.tables import citation, read_table, rows_of
from pipeline.reporting.calibration import calibrate, calibration_plot
from pipeline.reporting.class_errors import class_plots, worst_classes
from pipeline.reporting.confusion import confusion_matrix, confusions
from pipeline.reporting.cost_accuracy import cost_accuracy_plots
from pipeline.reporting.crop_drawing import crop_drawing
from pipeline.reporting.finished_run import TRAINING_STAGES
from pipeline.reporting.gates import gate_section
from pipeline.reporting.outline import describe_run, sections, why_incomparable
from pipeline.reporting.pictures import thumbnail
from pipeline.reporting.plots import Plot
from pipeline.reporting.recipe import compare_recipe
from pipeline.reporting.record import RunRecord
from pipeline.reporting.results import ResultRow, result_rows
from pipeline.reporting.side_by_side import validation_plot
from pipeline.reporting.tables import report_tables
from pipeline.reporting.training_curves import training_plots
from pipeline.running.attempts import seconds_of
from pipeline.tracking.wording import duration

_SHOWN_FINDINGS = 200


@dataclasses.dataclass(frozen=True)
class Report:
    """The files of the report stage."""

    html: str
    plots: dict[str, bytes]
    """PNG files by name."""
    tables: dict[str, dict[str, list[Any]]]
    """For W&B: {name: {"columns": [...], "rows": [[...], ...]}}."""


def render_report(record: RunRecord, stage_order: tuple[str, ...]) -> Report:
    """Render the report of a run; the same record gives the same report."""
    has_top5 = is_telling(5, len(record.val.classes))
    rows = result_rows(record)
    calibrations = {name: calibrate(ranking) for name, ranking in record.rankings.items()}
    curves, costs, classes = training_plots(record), cost_accuracy_plots(rows), class_plots(record.class_errors)
    diagrams = [calibration_plot(name, calibrations[name]) for name in (rows[0].plan, FUSED_PLAN)]
    found = mistakes(record)
    beside = () if record.comparison is None else validation_plot(record.comparison)
    context = {
        "record": record,
        "config": record.config,
        "sentence": describe_run(record),
        "sections": sections(record),
        "why_incomparable": why_incomparable(record),
        "results": rows,
        "drawings": drawings(record),
        "present_classes": record.results["plans"][0].get("present_classes"),
        "has_top5": has_top5,
        "paper": {"citation": citation(), "contest": contest()},
        "tables": paper_tables(record, rows),
        "curves": [_picture(plot) for plot in curves],
        "cost_plots": [_picture(plot) for plot in costs],
        "costs": [_cost(record, row) for row in rows],
        "diagrams": [_picture(plot) for plot in diagrams],
        "calibrations": calibrations,
        "fusion": record.fusion,
        "confusions": describe_confusions(record),
        "matrix": confusion_matrix(record.rankings[rows[0].plan], len(record.val.classes)),
        "run_plots": [_picture(plot) for plot in beside],
        **gate_section(record.gates),
        "worst_classes": worst_classes(record.class_errors),
        "class_plots": [_picture(plot) for plot in classes],
        "mistakes": found,
        "data": {split: describe_images(index) for split, index in record.indexes.items()},
        "findings": record.findings[:_SHOWN_FINDINGS],
        "finding_counts": count_findings(record.findings),
        "recipe": compare_recipe(record),
        "times": [_time_row(record, name) for name in stage_order if name in record.stages],
        "stages": [record.stages[name] for name in stage_order if name in record.stages],
    }
    return Report(
        html=_environment().get_template("page.html").render(context),
        plots={f"{plot.name}.png": plot.png() for plot in (*curves, *costs, *diagrams, *classes, *beside)},
        tables=report_tables(record, rows, calibrations, found),
    )


def paper_tables(record: RunRecord, rows: tuple[ResultRow, ...]) -> list[dict[str, Any]]:
    """Return the paper's tables about this run's network, its rows marked, and the results that belong beside them;
    those about the contest's network if there are none."""
    title = record.config.model.title
    found = []
    for table in dict.fromkeys(table for table, _ in rows_of(title)) or map(read_table, ("table8", "table9")):
        marked = [(row, row.model == title) for row in table.rows]
        own = [row for row in rows if row.paper is not None and row.paper.source.startswith(f"{table.source},")]
        found.append({"source": table.source, "caption": table.caption, "rows": marked, "own": own})
    return found


def drawings(record: RunRecord) -> dict[str, Markup]:
    """Return the crops of each plan in an image of the median size."""
    width, height = (round(statistics.median(sizes.tolist())) for sizes in (record.val.widths, record.val.heights))
    return {plan.name: Markup(crop_drawing(plan, width, height)) for plan in record.config.evaluate.plans}


def mistakes(record: RunRecord) -> list[dict[str, Any]]:
    """Return the surest mistakes under the first crop plan, each with its picture and classes."""
    val = record.val
    return [
        {
            "picture": thumbnail(val, mistake["position"]),
            "path": val.names[mistake["position"]],
            "true": val.classes[mistake["label"]],
            "predicted": val.classes[mistake["predicted"]],
            "percent": 100 * mistake["probability"],
            "rank": mistake["label_rank"] + 1,
        }
        for mistake in record.results["plans"][0]["mistakes"]
    ]


def describe_confusions(record: RunRecord) -> list[dict[str, Any]]:
    """Return the most frequent confusions under the first crop plan, each with its classes and a picture."""
    val = record.val
    return [
        {
            "picture": thumbnail(val, found.position),
            "true": val.classes[found.label],
            "predicted": val.classes[found.predicted],
            "images": found.images,
            "of_class": found.of_class,
        }
        for found in confusions(next(iter(record.rankings.values())))
    ]


def describe_images(index: ImageIndex) -> dict[str, Any]:
    """Return counts and sizes of one split."""
    per_class = Counter(label for label in index.labels.tolist() if label != UNLABELLED)
    return {
        "images": len(index),
        "bytes": int(index.num_bytes.sum()),
        "per_class": (min(per_class.values()), max(per_class.values())) if per_class else None,
        "width": _spread(index.widths.tolist()),
        "height": _spread(index.heights.tolist()),
        "flags": sorted(index.count_flags().items()),
    }


def _cost(record: RunRecord, row: ResultRow) -> dict[str, Any]:
    """Return the cost of a plan. All ranks work at the same time during its seconds."""
    attempts = record.stages["evaluate"].attempts
    world_size = attempts[-1].world_size if attempts else 1
    return {
        "row": row,
        "images_per_second": row.images / row.seconds if row.seconds else None,
        "world_size": world_size,
        "process_seconds": row.seconds * world_size,
        "is_on_gpu": record.results["device"] != "cpu",
    }


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), round(statistics.median(values)), max(values)


def _time_row(record: RunRecord, name: str) -> dict[str, Any]:
    stage = record.stages[name]
    speed = stage.metrics["images_per_second"] if name in TRAINING_STAGES else None
    if name == "evaluate":
        seconds = sum(plan["seconds"] for plan in record.results["plans"])
        speed = sum(plan["images"] for plan in record.results["plans"]) / seconds if seconds else None
    return {"stage": stage, "time": duration(seconds_of(stage.attempts)), "images_per_second": speed}


def _picture(plot: Plot) -> dict[str, str]:
    return {"name": plot.name, "description": plot.description, "svg": Markup(plot.svg())}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: "\N{EN DASH}" if value is None else f"{value:.2f}"
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["megas"] = lambda value: f"{value / 1e6:,.2f}"
    environment.filters["duration"] = duration
    environment.filters["counted"] = counted
    environment.filters["shell"] = shlex.join
    environment.filters["clean"] = clean
    environment.filters["name"] = lambda of_class: clean(of_class.words or of_class.folder)
    return environment


def clean(text: object) -> str:
    """Escape the parts of a file name that are no valid Unicode."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")
