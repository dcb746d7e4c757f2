"""Write the report: one page that needs nothing but itself, and its plots as files."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.members import evaluate_directory
from pipeline.reporting.page import render_report
from pipeline.reporting.record import read_run_record
from pipeline.running.context import StageContext, StageResult
from pipeline.store.file import naming, write_bytes, write_json
from pipeline.tracking.wandb_mirror import TABLES
from stages import STAGES

REPORT = "report.html"
PLOTS = "plots"


def run(context: StageContext) -> StageResult:
    """Read what the other stages left, and nothing else but the pictures of the worst mistakes."""
    other = context.config.report.compare
    compared = None if other is None else evaluate_directory(Path(other), STAGES)
    record = read_run_record(context.config, context.inputs, compared)
    report = render_report(record, tuple(spec.name for spec in STAGES))
    plots = {f"{PLOTS}/{name}": content for name, content in report.plots.items()}
    with naming(context.directory / PLOTS):
        (context.directory / PLOTS).mkdir(exist_ok=True)
    for name, content in plots.items():
        write_bytes(context.directory / name, content)
    write_json(context.directory / TABLES, report.tables)
    write_bytes(context.directory / REPORT, report.html.encode())
    context.events.show("note", level="info", text=f"written to {(context.directory / REPORT).absolute()}")
    return StageResult(outputs=[REPORT, TABLES, *sorted(plots)], metrics={})
