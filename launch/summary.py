"""The results of a finished run, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.console import say, show, table
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage
from pipeline.store.seal import BrokenSeal, read_seal

REPORT = "report.html"


def print_results(placed: Mapping[str, PlacedStage]) -> None:
    """Print the errors of each crop plan and of their fusion, and the path of the report; for unlabelled images, that
    of the scores.

    Raises UserError if a seal is damaged.
    """
    plans, fused = (_metrics(placed[name]) for name in ("evaluate", "fuse"))
    if "report" not in placed:
        say(f"\nscores of {fused['images']:,} images without labels: {placed['fuse'].directory.absolute()}")
        return
    results = table("crop plan", "crops", "top-1 error", "top-5 error")
    for column in results.columns[1:]:
        column.justify = "right"
    for plan, metrics in plans.items():
        errors = (f"{metrics[f'top{k}_error_percent']:.2f} %" for k in (1, 5))
        results.add_row(plan, str(metrics["crops"]), *errors)
    members = fused["members"]
    errors = (f"{fused[f'top{k}_error_percent']:.2f} %" for k in (1, 5))
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
