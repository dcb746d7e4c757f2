"""The results of a finished run, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.console import say, show, table
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage
from pipeline.store.seal import BrokenSeal, read_seal

REPORT = "report.html"
_ERRORS = {
    "top1_error_percent": "top-1 error",
    "top5_error_percent": "top-5 error",
    "restricted_top1_error_percent": "top-1 among the {} classes present",
}


def print_results(placed: Mapping[str, PlacedStage]) -> None:
    """Print the errors of each crop plan and of their fusion, and the path of the report; for unlabelled images, that
    of the scores.

    Raises UserError if a seal is damaged.
    """
    plans, fused = (_metrics(placed[name]) for name in ("evaluate", "fuse"))
    if "report" not in placed:
        say(f"\nscores of {counted(fused['images'], 'image')} without labels: {placed['fuse'].directory.absolute()}")
        return
    shown = [name for name in _ERRORS if name in fused]
    present = fused.get("present_classes")
    results = table("crop plan", "crops", *(_ERRORS[name].format(present) for name in shown))
    for column in results.columns[1:]:
        column.justify = "right"
    for plan, metrics in plans.items():
        results.add_row(plan, str(metrics["crops"]), *(f"{metrics[name]:.2f} %" for name in shown))
    members = fused["members"]
    errors = (f"{fused[name]:.2f} %" for name in shown)
    results.add_row(f"fused, {members} member{'' if members == 1 else 's'}", "", *errors)
    say("")
    show(results)
    say(f"\nreport: {(placed['report'].directory / REPORT).absolute()}")


def _metrics(stage: PlacedStage) -> Mapping[str, Any]:
    try:
        seal = read_seal(stage.directory, "stage")
    except BrokenSeal as error:
        raise UserError(str(error)) from error
    assert seal is not None, "results of a run that is not done"
    metrics: Mapping[str, Any] = seal.about["metrics"]
    return metrics
