"""Write the report: one self-contained page, and its plots as files."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.reader import read_run_config
from pipeline.data.index import ImageIndex, read_index
from pipeline.data.source import locate
from pipeline.evaluation.network_classes import mapped_index
from pipeline.ground.errors import UserError
from pipeline.reporting.finished_run import FinishedRun
from pipeline.reporting.page import render_report
from pipeline.reporting.record import read_run_record
from pipeline.running.context import StageContext, StageResult
from pipeline.running.other_run import verify_stage
from pipeline.running.stage import part_names, place_stages
from pipeline.store.file import naming, write_bytes, write_json
from pipeline.tracking.wandb_mirror import TABLES
from stages import STAGES, evaluate_directory

REPORT = "report.html"
PLOTS = "plots"


def run(context: StageContext) -> StageResult:
    """Read the other stages' directories, and the images of the worst mistakes."""
    others = [_finished_run(name) for name in context.config.report.compare]
    indexes = {name.partition("-")[2]: _index(context, name) for name in context.inputs if name.startswith("prepare-")}
    # Test images, which have no report, are never among them: all others are seen as the network sees them.
    indexes |= {"val": mapped_index(indexes["val"], context.inputs["evaluate"])}
    record = read_run_record(context.config, context.inputs, context.seals, indexes, others)
    report = render_report(record, tuple(name for stage in STAGES for name in part_names(stage)))
    plots = {f"{PLOTS}/{name}": content for name, content in report.plots.items()}
    with naming(context.directory / PLOTS):
        (context.directory / PLOTS).mkdir(exist_ok=True)
    for name, content in plots.items():
        write_bytes(context.directory / name, content)
    write_json(context.directory / TABLES, report.tables)
    write_bytes(context.directory / REPORT, report.html.encode())
    context.events.show("note", level="info", text=f"written to {(context.directory / REPORT).absolute()}")
    images = {split: index.digest for split, index in indexes.items()}
    return StageResult([REPORT, TABLES, *sorted(plots)], metrics={}, images=images)


def _finished_run(name: str) -> FinishedRun:
    verify_stage(evaluate_directory(Path(name)))
    config = read_run_config(Path(name))
    placed = place_stages(config, Path(name), STAGES)
    return FinishedRun(name, config, {stage: found.directory for stage, found in placed.items() if found.is_done})


def _index(context: StageContext, name: str) -> ImageIndex:
    """Return the index of a part of prepare; without a place if the images are gone, since a report needs no
    pictures."""
    index = read_index(context.inputs[name])
    try:
        return locate(index, context.inputs[name], context.config.data)
    except UserError:
        return index
