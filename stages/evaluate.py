"""Score every image of a split under every crop plan, and count the errors if the labels are known.

Writes for each plan `scores-<plan>.npy` with its seal and, for validation images, `per-class-<plan>.tsv`; and
`results.json` for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.data.index import ImageIndex, check_num_classes
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.evaluation.expansion import count_crops
from pipeline.evaluation.inference import Network, evaluating
from pipeline.evaluation.loading import load_network
from pipeline.evaluation.metrics import (
    class_table,
    error_percent,
    is_telling,
    rank_scores,
    restricted_top1,
    worst_mistakes,
)
from pipeline.evaluation.network_classes import CLASSES, ClassMapping, map_classes
from pipeline.evaluation.plan_scoring import Evaluated, PlanScoring
from pipeline.evaluation.scores import Scores
from pipeline.ground.errors import UserError
from pipeline.interop.known import compare, compare_accuracy, published
from pipeline.models.weights import count_classes
from pipeline.running.context import StageContext, StageResult
from pipeline.running.named_files import digest_of
from pipeline.running.named_weights import resolve_weights
from pipeline.store.file import sha256_of, write_bytes, write_json
from pipeline.store.weight_header import read_metadata
from pipeline.tracking.events import read_events

RESULTS = "results.json"
NUM_MISTAKES = 24
"""Number of the surest mistakes to keep for the report."""
_SHOWN = ("top1_error_percent", "top5_error_percent", "restricted_top1_error_percent", "present_classes", "crops")


def run(context: StageContext) -> StageResult:
    """Score each image exactly once under each plan, with the run's weights or config.evaluate.weights."""
    config, collective = context.config, context.collective
    weights = _weights_file(context)
    metadata = read_metadata(weights)
    images = context.images(config.evaluate.split)
    mapping = _map_classes(context, images, weights, metadata)
    evaluated = Evaluated(
        config=config,
        version=context.part.version,
        identity=_identity(context),
        weights=weights,
        weights_sha256=collective.broadcast(_weights_sha256(context, weights) if context.ranks.is_main else None),
        preprocessing=_preprocessing(context, weights, metadata),
        index=images if mapping is None else mapping.applied(images),
    )
    own = context.part.place
    siblings = sorted(place for place in own.parent.glob("evaluate-*") if place != own)
    scorings = [
        PlanScoring(evaluated, plan, context.directory, siblings, collective, context.events, context.stop)
        for plan in config.evaluate.plans
    ]
    if context.ranks.is_main:
        _forget_events_without_scores(context, scorings)
    model = _load_model(context, evaluated)
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
                "published": _compare_with_published(context, evaluated, metadata, results),
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


def _weights_file(context: StageContext) -> Path:
    if context.config.evaluate.weights is not None:
        return resolve_weights(context.config.evaluate.weights, context.run)
    trained = context.inputs["freeze_bn"] if "freeze_bn" in context.inputs else context.inputs["train"]
    return trained / "weights.safetensors"


def _map_classes(
    context: StageContext, images: ImageIndex, weights: Path, metadata: Mapping[str, str]
) -> ClassMapping | None:
    """Find the classes of the images among those of the weights. None if they are the same."""
    config = context.config
    if config.evaluate.weights is None:
        if config.evaluate.split == "val":
            check_num_classes(images, config.model.num_classes)
        return None
    num_classes = count_classes(weights) or config.model.num_classes or len(images.classes)
    file = None if config.evaluate.classes is None else Path(config.evaluate.classes)
    folders = [image_class.folder for image_class in images.classes]
    mapping = map_classes(images.split, folders, num_classes, metadata, file, str(weights))
    if mapping is not None and folders:
        here, there = (f"{len(classes):,}" for classes in (images.classes, mapping.classes))
        context.note(f"the {here} classes of the images are found among the network's {there}")
    return mapping


def _weights_sha256(context: StageContext, weights: Path) -> str:
    """Hash the weight file. Raises UserError if its content is not the one that the stage's key was made from."""
    found = sha256_of(weights)
    if context.config.evaluate.weights is not None and found != digest_of(weights, context.run):
        raise UserError(
            f"{weights}: not the file that this run was set up with (the same size and time, another SHA-256); put the "
            "old one back, or touch this one and launch again"
        )
    return found


def _identity(context: StageContext) -> dict[str, Any]:
    """Return the identity of the declared sections, without the list of plans: scores depend on their own plan
    alone."""
    return {name: value for name, value in context.part.identity.items() if name != "evaluate.plans"}


def _preprocessing(context: StageContext, weights: Path, metadata: Mapping[str, str]) -> Preprocessing:
    """Return the preprocessing of the weight file, or else the recipe's."""
    pixels = context.config.input
    recipe = Preprocessing(pixels.mean, pixels.std, "bilinear_antialias")
    asked = read_preprocessing(metadata, str(weights))
    if asked is None:
        return recipe
    if asked != recipe:
        text = f"{weights} asks for other preprocessing than the recipe's, and gets it: {asked.sentence()}"
        context.events.show("note", level="info", text=text)
    return asked


def _compare_with_published(
    context: StageContext, evaluated: Evaluated, metadata: Mapping[str, str], results: list[dict[str, Any]]
) -> str | None:
    """Show how far published weights are from their publishers' figures. Returns None for other weights."""
    known = published(metadata)
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


def _load_model(context: StageContext, evaluated: Evaluated) -> nn.Module:
    config, device, is_main = context.config, context.collective.device, context.ranks.is_main
    num_classes, preprocessing = len(evaluated.index.classes), evaluated.preprocessing
    return load_network(
        config.model,
        num_classes,
        evaluated.weights,
        preprocessing,
        config.execution,
        device,
        is_checked=is_main,
    )


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
