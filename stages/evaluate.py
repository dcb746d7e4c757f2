"""Score every validation image under every crop plan, and count the errors.

Leaves for each plan `scores-<plan>.npy` with its description, and `per-class-<plan>.tsv`; and `results.json` for all.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.data.index import Dataset, read_dataset
from pipeline.data.loaders import build_view_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.errors import StopRequested
from pipeline.evaluation.crops import count_views, expand
from pipeline.evaluation.inference import Network, ViewScorer, evaluating
from pipeline.evaluation.metrics import class_table, error_percent, rank_scores, worst_mistakes
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import ScoreDescription, ScoreFile
from pipeline.models import create_model
from pipeline.models.weights import load_weights
from pipeline.runs.artifact import sha256_of, write_bytes, write_json
from pipeline.tracking.events import read_events
from stages.context import StageContext, StageResult

RESULTS = "results.json"
BATCHES_PER_PART = 4
"""A kill costs each process the work on at most this many batches."""
NUM_MISTAKES = 24
"""How many of the surest mistakes are kept for the report."""


def run(context: StageContext) -> StageResult:
    """Errors of the run's weights, or of config.evaluate.weights, over each image exactly once under each plan."""
    config, device = context.config, context.collective.device
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    dataset = read_dataset(context.inputs["prepare"])
    weights = _weights_file(context)
    weights_sha256 = sha256_of(weights)
    scorings = [
        _Scoring(context, dataset, plan, _made_from(context, dataset, plan, weights_sha256))
        for plan in config.evaluate.resolved_plans()
    ]
    if context.ranks.is_main:
        _forget_events_without_scores(context, scorings)
    model = _load_model(context, weights)
    with evaluating(model):
        network: Network = torch.compile(model, dynamic=False) if config.execution.compile else model
        results = [scoring.result(scoring.complete(network)) for scoring in scorings]
    if context.ranks.is_main:
        write_json(
            context.directory / RESULTS,
            {
                "weights": {"path": str(weights), "sha256": weights_sha256},
                "images": len(dataset.val),
                "classes": len(dataset.classes),
                "plans": results,
            },
        )
    outputs = [RESULTS, *(name for scoring in scorings for name in scoring.outputs)]
    shown = ("top1_error_percent", "top5_error_percent", "views")
    return StageResult(outputs, {result["name"]: {key: result[key] for key in shown} for result in results})


def _weights_file(context: StageContext) -> Path:
    if context.config.evaluate.weights is not None:
        return Path(context.config.evaluate.weights)
    trained = context.inputs["freeze_bn"] if "freeze_bn" in context.inputs else context.inputs["train"]
    return trained / "weights.safetensors"


def _load_model(context: StageContext, weights: Path) -> nn.Module:
    config, device = context.config, context.collective.device
    with torch.device("meta"):
        model = create_model(config.model.name, config.model.num_classes)
    load_weights(model, weights)
    layout = torch.channels_last if config.execution.channels_last else torch.contiguous_format
    return model.to(memory_format=layout).to(device)


def _made_from(context: StageContext, dataset: Dataset, plan: CropPlan, weights_sha256: str) -> dict[str, Any]:
    """Everything that a plan's scores depend on."""
    config = context.config
    return {
        "weights_sha256": weights_sha256,
        "val_sha256": dataset.val.digest,
        "plan": plan.model_dump(mode="json"),
        "model": config.model.name,
        "num_classes": config.model.num_classes,
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "batch": config.evaluate.batch,
        "execution": config.execution.model_dump(mode="json"),
        "loader": config.loader.backend,
    }


def _forget_events_without_scores(context: StageContext, scorings: list[_Scoring]) -> None:
    """Where an event tells of scores that are gone or no longer count, begin the record anew."""
    finished = {scoring.name for scoring in scorings if scoring.description() is not None}
    if any(event["plan"] not in finished for event in read_events(context.directory, "evaluation")):
        context.events.rewind(0)


class _Scoring:
    """The scores of one plan: those that are there, those still to be computed, and what follows from them."""

    def __init__(self, context: StageContext, dataset: Dataset, plan: CropPlan, made_from: dict[str, Any]) -> None:
        self._context = context
        self._config = context.config
        self._dataset = dataset
        self._plan = plan
        self._made_from = made_from
        self._file = ScoreFile(context.directory, plan.name)
        self._parts = PartFolder(
            context.directory / f"parts-{plan.name}",
            made_from,
            num_images=len(dataset.val),
            num_classes=self._config.model.num_classes,
            images_per_part=BATCHES_PER_PART * self._config.evaluate.batch,
        )
        self._class_table = f"per-class-{plan.name}.tsv"
        self.name = plan.name
        self.outputs = (self._file.path.name, self._file.description_path.name, self._class_table)

    def description(self) -> ScoreDescription | None:
        """What the finished score file says of itself; None where there is none."""
        return self._file.describe(self._made_from)

    def complete(self, model: Network) -> ScoreDescription | None:
        """Compute what is missing and put the score file together; its description, on the main rank.

        All ranks work through the missing parts, and none talks to another until it has no more to do.
        """
        collective = self._context.collective
        description = self.description() if collective.ranks.is_main else None
        if not collective.share(description is not None):
            pending = collective.share(self._missing_parts() if collective.ranks.is_main else None)
            self._score(model, pending)
            if collective.any(self._context.stop.is_set):
                raise StopRequested(f"stopped on request while scoring plan '{self.name}'; the same command goes on")
            if collective.ranks.is_main:
                description = self._file.assemble(self._parts, self._made_from)
        if collective.ranks.is_main:
            self._parts.remove()
        return description

    def result(self, description: ScoreDescription | None) -> dict[str, Any]:
        """What is told of the plan, on every rank; the main one writes its table, and its event unless it is there."""
        if not self._context.ranks.is_main:
            return dict(self._context.collective.share(None))
        assert description is not None
        index = self._dataset.val
        ranking = rank_scores(self._file.open(), index.labels)
        errors = {k: ranking.errors(k) for k in (1, 5)}
        table = class_table(ranking, self._dataset.classes)
        write_bytes(self._context.directory / self._class_table, table.encode("utf-8", "surrogateescape"))
        counts = {
            "images": len(index),
            "views": count_views(self._plan),
            "top1_error_percent": error_percent(errors[1], len(index)),
            "top5_error_percent": error_percent(errors[5], len(index)),
            "seconds": description.seconds,
        }
        if all(event["plan"] != self.name for event in read_events(self._context.directory, "evaluation")):
            self._context.events.write("evaluation", plan=self.name, **counts)
        result = {
            "name": self.name,
            **counts,
            "top1_errors": errors[1],
            "top5_errors": errors[5],
            "scores": {"file": self._file.path.name, "sha256": description.sha256},
            "per_class": self._class_table,
            "mistakes": worst_mistakes(ranking, NUM_MISTAKES),
        }
        return dict(self._context.collective.share(result))

    def _missing_parts(self) -> list[int]:
        pending, problems = self._parts.survey()
        for problem in problems:
            self._context.events.show("note", level="warning", text=f"{problem}; it is computed again")
        if 0 < len(pending) < len(self._parts):
            text = f"plan '{self.name}': going on with {len(pending)} of {len(self._parts)} parts to do"
            self._context.events.show("note", level="info", text=text)
        return pending

    def _score(self, model: Network, pending: list[int]) -> None:
        """Compute and write this rank's share of the parts `pending`, one after the other, until asked to stop."""
        config, device, ranks = self._config, self._context.collective.device, self._context.ranks
        numbers = pending[ranks.rank :: ranks.world_size]
        if not numbers:
            return
        preprocessor = Preprocessor(config.data, config.augmentation, device, config.execution.channels_last)
        fill_up_to = config.evaluate.batch if config.execution.compile else 0
        pending_images = sum(len(self._parts.positions(number)) for number in pending)
        scorer = ViewScorer(model, self._plan, config.execution, preprocessor, device, fill_up_to)
        windows = expand(self._plan)[0]
        positions = np.concatenate([self._parts.positions(number) for number in numbers])
        # All ranks are taken to be as far as this one, which saves them from talking about it.
        progress = _Progress(self._context, self._plan, len(positions), pending_images / len(positions))
        loader = build_view_loader(self._dataset.val, positions, windows, config.evaluate.batch, config.loader, device)
        with contextlib.closing(loader):
            batches = iter(loader)
            started = time.perf_counter()
            for number in numbers:
                rows = []
                # The index is cut at multiples of the batch, so no batch belongs to two parts.
                for _ in range(0, len(self._parts.positions(number)), config.evaluate.batch):
                    if self._context.stop.is_set:
                        return
                    # Rounded on the device: half as much to copy.
                    rows.append(scorer.log_probabilities(next(batches).views).half())
                    progress.add(len(rows[-1]))
                scores = torch.cat(rows).cpu().numpy()
                ended = time.perf_counter()
                self._parts.write(number, Part(scores, (ended - started) / ranks.world_size))
                started = ended


class _Progress:
    """How far the scoring of a plan is, as the main rank sees it."""

    def __init__(self, context: StageContext, plan: CropPlan, images: int, scale: float) -> None:
        """`images` are this rank's, `scale` times as many everybody's."""
        self._events = context.events
        self._plan = plan
        self._images = images
        self._scale = scale
        self._seen = 0
        self._started = time.perf_counter()

    def add(self, images: int) -> None:
        """Show that so many more images are done."""
        self._seen += images
        self._events.show(
            "progress",
            done=round(self._seen * self._scale),
            total=round(self._images * self._scale),
            unit="images",
            rate=self._seen * self._scale / (time.perf_counter() - self._started),
            text=self._plan.name,
        )
