"""Score every image of a split under every crop plan, and count the errors where the labels are known.

Leaves for each plan `scores-<plan>.npy` with its description and, for validation images, `per-class-<plan>.tsv`; and
`results.json` for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.data.index import Dataset, ImageIndex, read_dataset
from pipeline.evaluation.expansion import count_crops
from pipeline.evaluation.inference import Network, evaluating
from pipeline.evaluation.metrics import class_table, error_percent, rank_scores, worst_mistakes
from pipeline.evaluation.plan_scoring import Evaluated, PlanScoring
from pipeline.evaluation.scores import ScoreDescription
from pipeline.interop.known import PLAN, compare, published
from pipeline.interop.preprocessing import Preprocessing, read_preprocessing
from pipeline.models import create_model
from pipeline.models.folding import fold_batch_norms
from pipeline.models.weights import load_weights, read_metadata
from pipeline.running.context import StageContext, StageResult
from pipeline.store.file import sha256_of, write_bytes, write_json
from pipeline.tracking.events import read_events

RESULTS = "results.json"
NUM_MISTAKES = 24
"""How many of the surest mistakes are kept for the report."""
_SHOWN = ("top1_error_percent", "top5_error_percent", "crops")


def run(context: StageContext) -> StageResult:
    """Scores of the run's weights, or of config.evaluate.weights, for each image exactly once under each plan."""
    config = context.config
    dataset = read_dataset(context.inputs["prepare"])
    weights = _weights_file(context)
    index = _split_index(context, dataset)
    evaluated = Evaluated(str(weights), sha256_of(weights), _preprocessing(context, weights), dataset, index)
    scorings = [PlanScoring(context, evaluated, plan) for plan in config.evaluate.resolved_plans()]
    if context.ranks.is_main:
        _forget_events_without_scores(context, scorings)
    model = _load_model(context, evaluated)
    with evaluating(model):
        compiled: Network | None = torch.compile(model, dynamic=False) if config.execution.compile else None
        results = [_result(context, evaluated, scoring, scoring.complete(model, compiled)) for scoring in scorings]
    if context.ranks.is_main:
        write_json(
            context.directory / RESULTS,
            {
                "weights": {"path": evaluated.weights, "sha256": evaluated.weights_sha256},
                "preprocessing": evaluated.preprocessing.metadata(),
                "published": _compare_with_published(context, evaluated, results),
                "split": config.evaluate.split,
                "device": torch.cuda.get_device_name() if context.collective.device.type == "cuda" else "cpu",
                "images": len(evaluated.index),
                "classes": len(dataset.classes),
                "plans": results,
            },
        )
    outputs = [RESULTS]
    for scoring, result in zip(scorings, results, strict=True):
        outputs += [scoring.file.path.name, scoring.file.description_path.name]
        outputs += [result["per_class"]] if "per_class" in result else []
    metrics = {result["name"]: {key: result[key] for key in _SHOWN if key in result} for result in results}
    return StageResult(outputs, metrics)


def _weights_file(context: StageContext) -> Path:
    if context.config.evaluate.weights is not None:
        return Path(context.config.evaluate.weights)
    trained = context.inputs["freeze_bn"] if "freeze_bn" in context.inputs else context.inputs["train"]
    return trained / "weights.safetensors"


def _split_index(context: StageContext, dataset: Dataset) -> ImageIndex:
    if context.config.evaluate.split == "val":
        return dataset.val
    assert dataset.test is not None, "the schema asks for data.test"
    return dataset.test


def _preprocessing(context: StageContext, weights: Path) -> Preprocessing:
    """What the weight file asks for, or else the recipe's."""
    data = context.config.data
    recipe = Preprocessing(data.mean, data.std, "bilinear_antialias")
    asked = read_preprocessing(read_metadata(weights), str(weights))
    if asked is None:
        return recipe
    if asked != recipe:
        text = f"{weights} asks for other preprocessing than the recipe's, and gets it: {asked.sentence()}"
        context.events.show("note", level="info", text=text)
    return asked


def _compare_with_published(context: StageContext, evaluated: Evaluated, results: list[dict[str, Any]]) -> str | None:
    """Tell how far weights that others published are from what they report; None where these are not such weights."""
    known = published(read_metadata(Path(evaluated.weights)))
    if known is None or context.config.evaluate.split != "val":
        return None
    result = next((result for result in results if result["name"] == PLAN), results[0])
    plan = next(plan for plan in context.config.evaluate.resolved_plans() if plan.name == result["name"])
    errors = result["top1_error_percent"], result["top5_error_percent"]
    text = compare(known, plan, len(evaluated.index), *errors)
    context.events.show("note", level="info", text=text)
    return text


def _load_model(context: StageContext, evaluated: Evaluated) -> nn.Module:
    config, device = context.config, context.collective.device
    with torch.device("meta"):
        model = create_model(config.model.name, config.model.num_classes, max_pool=evaluated.preprocessing.max_pool)
    load_weights(model, Path(evaluated.weights))
    layout = torch.channels_last if config.execution.channels_last else torch.contiguous_format
    # Folded on the CPU, so that the weights are the same on every device.
    return fold_batch_norms(model).to(memory_format=layout).to(device)


def _forget_events_without_scores(context: StageContext, scorings: list[PlanScoring]) -> None:
    """Where an event tells of scores that are gone or no longer count, begin the record anew."""
    finished = {scoring.plan.name for scoring in scorings if scoring.description() is not None}
    if any(event["plan"] not in finished for event in read_events(context.directory, "evaluation")):
        context.events.rewind(0)


def _result(
    context: StageContext, evaluated: Evaluated, scoring: PlanScoring, description: ScoreDescription | None
) -> dict[str, Any]:
    """What is told of a plan, on every rank; the main one, which has the description, writes its table and event."""
    if description is None:
        return dict(context.collective.broadcast(None))
    plan = scoring.plan
    counts: dict[str, Any] = {"images": len(evaluated.index), "crops": count_crops(plan)}
    details: dict[str, Any] = {"scores": {"file": scoring.file.path.name, "sha256": description.sha256}}
    if context.config.evaluate.split == "val":
        ranking = rank_scores(scoring.file.open(), evaluated.index.labels)
        for k in (1, 5):
            details[f"top{k}_errors"] = ranking.errors(k)
            counts[f"top{k}_error_percent"] = error_percent(ranking.errors(k), len(evaluated.index))
        table = class_table(ranking, evaluated.dataset.classes)
        details |= {"per_class": f"per-class-{plan.name}.tsv", "mistakes": worst_mistakes(ranking, NUM_MISTAKES)}
        write_bytes(context.directory / details["per_class"], table.encode("utf-8", "surrogateescape"))
    counts["seconds"] = description.seconds
    if "per_class" in details and all(
        event["plan"] != plan.name for event in read_events(context.directory, "evaluation")
    ):
        context.events.write("evaluation", plan=plan.name, **counts)
    return dict(context.collective.broadcast({"name": plan.name, **counts, **details}))
