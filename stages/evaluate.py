"""Score every image of a split under every crop plan, and count the errors if the labels are known.

Writes for each plan `scores-<plan>.npy` with its seal and, for validation images, `per-class-<plan>.tsv`; and
`results.json` for all.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.evaluation.expansion import count_crops
from pipeline.evaluation.inference import Network, evaluating
from pipeline.evaluation.metrics import (
    class_table,
    error_percent,
    is_telling,
    rank_scores,
    restricted_top1,
    worst_mistakes,
)
from pipeline.evaluation.network_classes import CLASSES
from pipeline.evaluation.plan_scoring import Evaluated, PlanScoring
from pipeline.evaluation.scores import Scores
from pipeline.interop.known import compare, compare_accuracy, published
from pipeline.running.context import StageContext, StageResult
from pipeline.running.trained import find_trained
from pipeline.store.file import write_bytes, write_json
from pipeline.store.weight_header import read_metadata
from pipeline.tracking.events import read_events

RESULTS = "results.json"
NUM_MISTAKES = 24
"""Number of the surest mistakes to keep for the report."""
_SHOWN = ("top1_error_percent", "top5_error_percent", "restricted_top1_error_percent", "present_classes", "crops")


def run(context: StageContext) -> StageResult:
    """Score each image exactly once under each plan, with the run's weights or config.evaluate.weights."""
    config, collective = context.config, context.collective
    trained = find_trained(context)
    weights, mapping = trained.weights, trained.mapping
    evaluated = Evaluated(
        config=config,
        version=context.part.version,
        # Without the list of plans: scores depend on their own plan alone.
        identity={name: value for name, value in context.part.identity.items() if name != "evaluate.plans"},
        weights=weights,
        weights_sha256=trained.weights_sha256,
        preprocessing=trained.preprocessing,
        index=trained.index,
    )
    own = context.part.place
    siblings = sorted(place for place in own.parent.glob("evaluate-*") if place != own)
    scorings = [
        PlanScoring(evaluated, plan, context.directory, siblings, collective, context.events, context.stop)
        for plan in config.evaluate.plans
    ]
    if context.ranks.is_main:
        _forget_events_without_scores(context, scorings)
    model = trained.load(context)
    with evaluating(model):
        compiled: Network | None = torch.compile(model, dynamic=False) if config.execution.compile else None
        results = [_result(context, evaluated, scoring, scoring.complete(model, compiled)) for scoring in scorings]
    outputs = [RESULTS]
    if context.ranks.is_main and mapping is not None:
        mapping.write(context.directory)
    outputs += [] if mapping is None else [CLASSES]
    if context.ranks.is_main:
        write_json(
            context.directory / RESULTS,
            {
                "weights": {"path": str(weights), "sha256": evaluated.weights_sha256},
                "preprocessing": evaluated.preprocessing.metadata(),
                "published": _compare_with_published(context, evaluated, results),
                "split": config.evaluate.split,
                "device": torch.cuda.get_device_name() if collective.device.type == "cuda" else "cpu",
                "images": len(evaluated.index),
                "index_sha256": evaluated.index.digest,
                "classes": len(evaluated.index.classes),
                "plans": results,
            },
        )
    for scoring, result in zip(scorings, results, strict=True):
        outputs += [*scoring.file.names, *([result["per_class"]] if "per_class" in result else [])]
    metrics = {result["name"]: {key: result[key] for key in _SHOWN if key in result} for result in results}
    return StageResult(outputs, metrics, images={config.evaluate.split: evaluated.index.digest})


def _compare_with_published(context: StageContext, evaluated: Evaluated, results: list[dict[str, Any]]) -> str | None:
    """Show how far published weights are from their publishers' figures. Returns None for other weights."""
    known = published(read_metadata(evaluated.weights))
    if known is None or context.config.evaluate.split != "val":
        return None
    plans = context.config.evaluate.plans
    plan = next((plan for plan in plans if known.is_measured_by(plan)), plans[0])
    result = next(result for result in results if result["name"] == plan.name)
    other = known.other_set(len(evaluated.index), result.get("present_classes", len(evaluated.index.classes)))
    if other is not None:
        text = compare_accuracy(known, other, plan, result)
    else:
        text = compare(known, plan, len(evaluated.index), result["top1_error_percent"], result["top5_error_percent"])
    context.events.show("note", level="info", text=text)
    return text


def _forget_events_without_scores(context: StageContext, scorings: list[PlanScoring]) -> None:
    """Restart the journal if an event reports scores that are gone or no longer count."""
    finished = {scoring.plan.name for scoring in scorings if scoring.finished() is not None}
    if any(event["plan"] not in finished for event in read_events(context.directory, "evaluation")):
        context.events.rewind(None)


def _result(context: StageContext, evaluated: Evaluated, scoring: PlanScoring, scores: Scores | None) -> dict[str, Any]:
    """Return a plan's results on every rank; the main one, which has the scores, writes its table and event."""
    if scores is None:
        return dict(context.collective.broadcast(None))
    plan, index = scoring.plan, evaluated.index
    counts: dict[str, Any] = {"images": len(index), "crops": count_crops(plan)}
    details: dict[str, Any] = {"scores": {"file": scores.path.name, "sha256": scores.sha256}}
    has_labels = context.config.evaluate.split == "val"
    if has_labels:
        ranking = rank_scores(scores.array, index.labels)
        for k in (k for k in (1, 5) if is_telling(k, len(index.classes))):
            details[f"top{k}_errors"] = ranking.errors(k)
            counts[f"top{k}_error_percent"] = error_percent(ranking.errors(k), len(index))
        counts |= restricted_top1(scores.array, index.labels)
        table = class_table(ranking, index.classes)
        details |= {"per_class": f"per-class-{plan.name}.tsv", "mistakes": worst_mistakes(ranking, NUM_MISTAKES)}
        write_bytes(context.directory / details["per_class"], table.encode("utf-8", "surrogateescape"))
    counts["seconds"] = scores.description.seconds
    told = {event["plan"] for event in read_events(context.directory, "evaluation")}
    if has_labels and plan.name not in told:
        context.events.write("evaluation", plan=plan.name, **counts)
    return dict(context.collective.broadcast({"name": plan.name, **counts, **details}))
