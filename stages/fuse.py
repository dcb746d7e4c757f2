"""Fuse the scores of the run's own crop plans, and of the other members that the config names.

Writes `scores-fused.npy` with its seal, `fused.json` with all figures and, if the images are all of the contest's,
`submission-2012.txt` and `submission-2014.txt`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import read_index
from pipeline.evaluation.ensemble import FUSED_PLAN, fuse
from pipeline.evaluation.members import find_scores, read_members
from pipeline.evaluation.network_classes import mapped_index
from pipeline.evaluation.scores import ScoreFile
from pipeline.ground.errors import UserError
from pipeline.running.context import StageContext, StageResult
from stages import evaluate_directory


def run(context: StageContext) -> StageResult:
    """Fuse the members and count the errors of the ensemble and without each member; without labels, only fuse."""
    config, started = context.config, time.perf_counter()
    prepared = context.inputs[f"prepare-{config.evaluate.split}"]
    index = mapped_index(read_index(prepared), context.inputs["evaluate"])
    context.events.rewind(None)
    own = [ScoreFile(context.inputs["evaluate"], plan.name).path for plan in config.evaluate.plans]
    others = [path for place in config.fuse.scores for path in find_scores(Path(place), evaluate_directory)]
    members = read_members([*own, *others])
    if members[0].scores.description.index_sha256 != index.digest:
        raise UserError(f"{members[0].scores.path}: made from other images than those of {prepared}; evaluate again")
    fusion = fuse(members, index, prepared, config.fuse, config.seed, context.directory, read_ilsvrc2012())
    figures = fusion.figures
    metrics: dict[str, Any] = {"images": figures["images"], "members": len(members)}
    if "errors" in figures:
        metrics.update({f"{k}_error_percent": error["percent"] for k, error in figures["errors"].items()})
        if "restricted" in figures:
            metrics.update(figures["restricted"])
        seconds = round(time.perf_counter() - started, 3)
        context.events.write("evaluation", plan=FUSED_PLAN, **metrics, seconds=seconds)
    note = figures["contest_files_note"] or f"contest files: {', '.join(figures['contest_files'])}"
    context.events.show("note", level="info", text=note)
    return StageResult(fusion.outputs, metrics, images={config.evaluate.split: index.digest})
