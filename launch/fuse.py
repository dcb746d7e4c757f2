"""`python -m launch fuse`: fuse any score files, without a recipe, and print a table of the results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from launch.console import say, show, table
from launch.summary import judge_fusion
from pipeline.config.crop_plan import Averaging
from pipeline.config.fusion import FuseConfig
from pipeline.config.sweep import members_of
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.evaluation.ensemble import fuse
from pipeline.evaluation.members import find_index, find_scores, read_members
from pipeline.ground.counting import counted
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.store.file import naming, replacing_directory
from stages import evaluate_directory

_WIDEST_MATRIX = 12


@dataclasses.dataclass(frozen=True)
class FuseRequest:
    """The command line of `fuse`."""

    paths: Sequence[Path]
    """Score files, folders of score files, runs, and sweeps for all of their runs."""
    out: Path
    averaging: Averaging
    select: Literal["none", "greedy"]
    weights: str | None
    """Numbers separated by commas, or the folder of a fusion."""
    images: Path | None
    """The run with the index of the images."""
    seed: int


def fuse_scores(request: FuseRequest) -> int:
    """Fuse the named score files into a new folder. Returns the exit code."""
    out = request.out
    if out.exists():
        raise UserError(f"--out: {out} exists already, and nothing is overwritten; choose another folder")
    config = _settings(request)
    places = [run for path in request.paths for run in members_of(path) or (path,)]
    members = read_members([path for place in places for path in find_scores(place, evaluate_directory)])
    index, prepared = find_index(members, request.images)
    about = members[0].scores.description
    images_of = f"{about.images:,} {'validation' if about.split == 'val' else 'test'} images"
    say(f"fusing {counted(len(members), 'member')}: {images_of}, {counted(about.classes, 'class')}\n")
    with naming(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replacing_directory(out) as folder:
        figures = fuse(members, index, prepared, config, request.seed, folder, read_ilsvrc2012()).figures
    print_fusion(figures)
    say("")
    say(figures["contest_files_note"] or f"contest files: {', '.join(figures['contest_files'])}")
    say(f"written to {out.absolute()}")
    return EXIT_DONE


def print_fusion(figures: Mapping[str, Any]) -> None:
    """Print members, errors with 95 % intervals and disagreements of a fusion, from its fused.json."""
    members = figures["members"]
    has_errors = "errors" in figures
    tops = tuple(figures.get("errors", ()))
    names = [f"top-{k[3:]}" for k in tops]
    columns = ["member", "weight", *(f"{name} error" for name in names), *(f"gain, {name}" for name in names)]
    rows = table(*(columns if has_errors else columns[:2]), numbers=range(1, len(columns)))
    for member in members:
        cells = [f"{member['alone'][k]['percent']:.2f} %" for k in tops] if has_errors else []
        if has_errors:
            gain = member["gain"]
            cells += ["" if gain is None else f"{gain[k]['percent']:+.2f}" for k in tops]
        rows.add_row(member["name"], f"{member['weight']:.3f}", *cells)
    if has_errors:
        errors, best = figures["errors"], figures["gain_over_best_member"]
        shown = [f"{errors[k]['percent']:.2f} %" for k in tops]
        rows.add_row("fused", "", *shown, *(f"{best[k]['percent']:+.2f}" for k in tops))
    show(rows)
    if not has_errors:
        say("test images: their labels were never published, so there are scores and no errors")
        return
    intervals = (f"top-{k[3:]} {errors[k]['low']:.2f} to {errors[k]['high']:.2f} %" for k in tops)
    say(f"fused, 95 % of resampled image sets: {', '.join(intervals)}")
    for line in judge_fusion(figures):
        say(line)
    alone = (f"top-{k[3:]}: {members[number]['name']}" for k, number in figures["best_member"].items())
    say(
        "gain: by how many percent points the error is higher without the member; in the last line, with the best "
        f"member alone ({', '.join(alone)})"
    )
    if figures["halves"]:
        say("weights were chosen on each half of the images and judged on the other; the mean of both is shown")
    if 1 < len(members) <= _WIDEST_MATRIX:
        _print_disagreement(figures)


def _print_disagreement(figures: Mapping[str, Any]) -> None:
    members = figures["members"]
    numbers = range(1, len(members) + 1)
    rows = table("first prediction differs, % of images", *map(str, numbers), numbers=numbers)
    for number, (member, shares) in enumerate(zip(members, figures["disagreement_percent"], strict=True), start=1):
        rows.add_row(f"{number} {member['name']}", *(f"{share:.2f}" for share in shares))
    say("")
    show(rows)


def _settings(request: FuseRequest) -> FuseConfig:
    weights, given = request.weights, None
    folder = weights if weights is not None and Path(weights).exists() else None
    if weights is not None and folder is None:
        try:
            given = tuple(float(word) for word in weights.split(","))
        except ValueError:
            raise UserError(
                f"--weights: must be numbers with commas between them or the folder of a fusion (given {weights})"
            ) from None
        if not all(0 < weight < math.inf for weight in given):
            raise UserError(f"--weights: must be finite numbers greater than 0 (given {weights})")
    if weights is not None and request.select != "none":
        raise UserError("--weights: are given or chosen, not both; leave --weights or --select out")
    return FuseConfig(averaging=request.averaging, selection=request.select, member_weights=given, weights_from=folder)
