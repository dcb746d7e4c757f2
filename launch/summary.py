"""The results of a finished run: a table, what chance explains of it, and what to look at next."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.console import say, show, table
from pipeline.evaluation.members import FUSION
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import typed
from pipeline.ground.intervals import NORMAL_QUANTILE
from pipeline.running.stage import PlacedStage
from pipeline.store.seal import BrokenSeal, read_seal
from pipeline.tracking.wandb_state import offline_files
from pipeline.tracking.wording import percentage

REPORT = "report.html"
_ERRORS = {
    "top1_error_percent": "top-1 error",
    "top5_error_percent": "top-5 error",
    "restricted_top1_error_percent": "top-1 among the {} classes present",
}


def print_results(run: Path, placed: Mapping[str, PlacedStage]) -> None:
    """Print the errors of each crop plan and of their fusion, and the path of the report; for unlabelled images, that
    of the scores. Then what `print_upload` does.

    Raises UserError if a seal is damaged.
    """
    plans, fused = (_metrics(placed[name]) for name in ("evaluate", "fuse"))
    say("")
    if "report" in placed:
        _print_errors(plans, fused, json.loads((placed["fuse"].directory / FUSION).read_text()))
        say(f"\nreport, to open in a browser: {(placed['report'].directory / REPORT).absolute()}")
    else:
        say(f"scores of {counted(fused['images'], 'image')} without labels: {placed['fuse'].directory.absolute()}")
    print_upload([run])


def print_upload(runs: Iterable[Path]) -> None:
    """Print how to upload what is not at W&B yet of some runs, if there is anything."""
    if waiting := [run / "wandb" for run in runs if offline_files(run)]:
        command = shlex.join([typed(sys.executable), "-m", "wandb", "sync"])
        files = (f"{shlex.quote(str(folder))}/offline-run-*" for folder in waiting)
        say(f"Weights & Biases was offline; to upload: {' '.join((command, *files))}")


def _print_errors(plans: Mapping[str, Any], fused: Mapping[str, Any], fusion: Mapping[str, Any]) -> None:
    shown = [name for name in _ERRORS if name in fused]
    errors = [_ERRORS[name].format(fused.get("present_classes")) for name in shown]
    results = table("crop plan", "crops", *errors, numbers=range(1, 2 + len(errors)))
    for plan, metrics in plans.items():
        cells = (percentage(metrics[name], fused["images"]) for name in shown)
        results.add_row(plan, str(metrics["crops"]), *cells)
    cells = (percentage(fused[name], fused["images"]) for name in shown)
    members = fusion["members"]
    weighed = sum(member["weight"] > 0 for member in members)
    of_all = f"{weighed} of " if weighed < len(members) else ""
    results.add_row(f"fused, {of_all}{counted(len(members), 'member')}", "", *cells)
    show(results)
    for line in judge_fusion(fusion):
        say(line)


def judge_fusion(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what chance explains of the differences in top-1 error between the best member of a fusion, the others,
    and the fusion.

    `figures` are those of its fused.json. Nothing is said of a single member.
    """
    members, images = figures["members"], figures["images"]
    if len(members) < 2:
        return
    best = figures["best_member"]["top1"]
    name, error = members[best]["name"], members[best]["alone"]["top1"]["percent"]
    close = [
        member["name"]
        for number, member in enumerate(members)
        if number != best
        and abs(member["alone"]["top1"]["percent"] - error)
        <= _chance(figures["disagreement_percent"][best][number], images)
    ]
    if close:
        yield f"top-1 error of {', '.join(close)}: within chance of {name}'s, on {counted(images, 'image')}"
    gain = figures["gain_over_best_member"]["top1"]
    middle, low, high = (
        f"{abs(points):.2f} points {'worse' if points < 0 else 'better'}"
        for points in (gain["percent"], gain["low"], gain["high"])
    )
    chance = "within" if gain["low"] <= 0 <= gain["high"] else "more than"
    yield f"top-1 error of the fusion: {middle} than {name}'s alone, {chance} chance (95 %: {low} to {high})"
    if gain["percent"] < 0 and figures["halves"]:
        yield "a fusion can be worse than its best member: its weights were chosen on other images than it is judged on"


def _chance(disagreement_percent: float, images: int) -> float:
    """Return the largest difference in percent that chance explains.

    Errors can differ only on images on which the first predictions do, which bounds the variance of the difference.
    """
    return 100 * NORMAL_QUANTILE * math.sqrt(disagreement_percent / 100 / images)


def _metrics(stage: PlacedStage) -> Mapping[str, Any]:
    try:
        seal = read_seal(stage.directory, "stage")
    except BrokenSeal as error:
        raise UserError(str(error)) from error
    assert seal is not None, "results of a run that is not done"
    metrics: Mapping[str, Any] = seal.about["metrics"]
    return metrics
