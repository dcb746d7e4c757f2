"""Fuse the scores of the run's own crop plans, and of whatever other members the config names, into one answer.

Leaves `scores-fused.npy` with its description, `fused.json` with all figures and, where the images are all of the
contest's, `submission-2012.txt` and `submission-2014.txt`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import read_dataset
from pipeline.evaluation.ensemble import FUSED_PLAN, fuse
from pipeline.evaluation.members import find_scores, fits, read_members
from pipeline.evaluation.scores import ScoreFile
from pipeline.ground.errors import UserError
from pipeline.running.context import StageContext, StageResult
from stages import STAGES


def run(context: StageContext) -> StageResult:
    """Errors of the ensemble, and what each member is worth; scores and the contest's files alone without labels."""
    config, started = context.config, time.perf_counter()
    context.events.rewind(0)
    prepare = context.inputs["prepare"]
    dataset = read_dataset(prepare)
    own = [ScoreFile(context.inputs["evaluate"], plan.name).path for plan in config.evaluate.resolved_plans()]
    others = [path for place in config.fuse.scores for path in find_scores(Path(place), STAGES)]
    members = read_members([*own, *others])
    if not fits(dataset, members[0].scores):
        raise UserError(f"{members[0].scores.path}: made from other images than those of {prepare}; evaluate again")
    fusion = fuse(members, dataset, prepare, config.fuse, config.seed, context.directory, read_ilsvrc2012())
    figures = fusion.figures
    metrics: dict[str, Any] = {"images": figures["images"], "members": len(members)}
    if "errors" in figures:
        metrics.update({f"top{k}_error_percent": figures["errors"][f"top{k}"]["percent"] for k in (1, 5)})
        seconds = round(time.perf_counter() - started, 3)
        context.events.write("evaluation", plan=FUSED_PLAN, **metrics, seconds=seconds)
    note = figures["contest_files_note"] or f"contest files: {', '.join(figures['contest_files'])}"
    context.events.show("note", level="info", text=note)
    return StageResult(fusion.outputs, metrics)
