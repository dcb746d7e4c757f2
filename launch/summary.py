"""The results of a finished run, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from launch.console import say, show, table
from pipeline.running.stage import PlacedStage
from pipeline.store.manifest import read_manifest

REPORT = "report.html"


def print_results(placed: Mapping[str, PlacedStage]) -> None:
    """Errors under each crop plan and of all fused, and where the report is; without labels, where the scores are."""
    manifest, fused = (read_manifest(placed[name].directory) for name in ("evaluate", "fuse"))
    assert manifest is not None, "results of a run that is not done"
    assert fused is not None, "results of a run that is not done"
    if "report" not in placed:
        say(f"\nscores of {fused.metrics['images']:,} images without labels: {placed['fuse'].directory.absolute()}")
        return
    results = table("crop plan", "crops", "top-1 error", "top-5 error")
    for column in results.columns[1:]:
        column.justify = "right"
    for plan, metrics in manifest.metrics.items():
        errors = (f"{metrics[f'top{k}_error_percent']:.2f} %" for k in (1, 5))
        results.add_row(plan, str(metrics["crops"]), *errors)
    members = fused.metrics["members"]
    errors = (f"{fused.metrics[f'top{k}_error_percent']:.2f} %" for k in (1, 5))
    results.add_row(f"fused, {members} member{'' if members == 1 else 's'}", "", *errors)
    say("")
    show(results)
    say(f"\nreport: {(placed['report'].directory / REPORT).absolute()}")
