"""The scores of one crop plan, on their way to a finished file: found, taken over, gone on with, or computed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.data.index import Dataset, ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import expand, images_at_once
from pipeline.evaluation.inference import Network, PlanScorer
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import ScoreDescription, ScoreFile, digest_classes, digest_images, image_names
from pipeline.ground.errors import StopRequested
from pipeline.interop.preprocessing import Preprocessing
from pipeline.running.context import StageContext
from stages import STAGES

BATCHES_PER_PART = 4
"""A kill costs each process the work on the images of at most this many batches."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What is evaluated: weights on images."""

    weights: str
    """Path of the weight file."""
    weights_sha256: str
    preprocessing: Preprocessing
    dataset: Dataset
    index: ImageIndex
    """Of the split that is evaluated."""


class PlanScoring:
    """The scores of one plan in the stage's directory. Every method is called by all ranks unless it says otherwise."""

    def __init__(self, context: StageContext, evaluated: Evaluated, plan: CropPlan) -> None:
        self._context = context
        self._evaluated = evaluated
        self.plan = plan
        self._images_at_once = images_at_once(plan, context.config.evaluate.batch)
        self._made_from = self._everything_it_depends_on()
        self.file = ScoreFile(context.directory, plan.name)
        self._parts = PartFolder(
            context.directory / f"parts-{plan.name}",
            self._made_from,
            num_images=len(evaluated.index),
            num_classes=context.config.model.num_classes,
            images_per_part=BATCHES_PER_PART * self._images_at_once,
        )

    def description(self) -> ScoreDescription | None:
        """What the finished score file says of itself; None where there is none. For any one rank."""
        return self.file.describe(self._made_from)

    def complete(self, model: nn.Module, compiled: Network | None) -> ScoreDescription | None:
        """Have the finished score file, computing what is missing; its description, on the main rank.

        All ranks work through the missing parts, and none talks to another until it has no more to do.
        """
        collective = self._context.collective
        description = (self.description() or self._take_over()) if collective.ranks.is_main else None
        if not collective.broadcast(description is not None):
            pending = collective.broadcast(self._missing_parts() if collective.ranks.is_main else None)
            with collective.apart():
                self._score(model, compiled, pending)
            if collective.any(self._context.stop.is_set):
                raise StopRequested(
                    f"stopped on request while scoring plan '{self.plan.name}'; the same command goes on"
                )
            if collective.ranks.is_main:
                description = self.file.assemble(self._parts, self._draft())
        if collective.ranks.is_main:
            self._parts.remove()
        return description

    def _everything_it_depends_on(self) -> dict[str, Any]:
        config, evaluated = self._context.config, self._evaluated
        plan = self.plan.model_dump(mode="json")
        del plan["name"]
        return {
            "version": next(spec.version for spec in STAGES if spec.name == "evaluate"),
            "weights_sha256": evaluated.weights_sha256,
            "index_sha256": evaluated.index.digest,
            "plan": plan,
            "model": config.model.name,
            "num_classes": config.model.num_classes,
            "batch_norms": "folded",
            "preprocessing": evaluated.preprocessing.metadata(),
            "batch": config.evaluate.batch,
            "execution": config.execution.model_dump(mode="json"),
            "loader": config.loader.backend,
        }

    def _draft(self) -> ScoreDescription:
        index, classes = self._evaluated.index, self._evaluated.dataset.classes
        return ScoreDescription(
            plan=self.plan.name,
            averaging=self.plan.averaging,
            split=self._context.config.evaluate.split,
            weights=self._evaluated.weights,
            weights_sha256=self._evaluated.weights_sha256,
            images=len(index),
            images_sha256=digest_images(image_names(index)),
            classes=len(classes),
            classes_sha256=digest_classes(classes),
            made_from=self._made_from,
            seconds=0.0,
            sha256="",
        )

    def _take_over(self) -> ScoreDescription | None:
        """The same scores from an earlier evaluation of this run, which had other plans beside this one."""
        taken = self.file.take_over(self._draft(), self._earlier_evaluations())
        if taken is None:
            return None
        text = f"plan '{self.plan.name}': the scores are there already, in {taken.parent}"
        self._context.events.show("note", level="info", text=text)
        return self.description()

    def _earlier_evaluations(self) -> list[Path]:
        """The run's other directories of this stage, finished or not."""
        own = self._context.directory
        return sorted(folder for folder in self._context.run.glob(f"{own.name.partition('-')[0]}-*") if folder != own)

    def _missing_parts(self) -> list[int]:
        self._parts.take_over(
            parts for folder in self._earlier_evaluations() for parts in sorted(folder.glob("parts-*"))
        )
        pending, problems = self._parts.survey()
        for problem in problems:
            self._context.events.show("note", level="warning", text=f"{problem}; it is computed again")
        if 0 < len(pending) < len(self._parts):
            text = f"plan '{self.plan.name}': going on with {len(pending)} of {len(self._parts)} parts to do"
            self._context.events.show("note", level="info", text=text)
        return pending

    def _score(self, model: nn.Module, compiled: Network | None, pending: list[int]) -> None:
        """Compute and write this rank's share of the parts `pending`, one after the other, until asked to stop."""
        config, device, ranks = self._context.config, self._context.collective.device, self._context.ranks
        numbers = pending[ranks.rank :: ranks.world_size]
        if not numbers:
            return
        if device.type == "cuda":
            # Whole images come in hundreds of sizes, and finding the fastest kernels for each would not pay.
            torch.backends.cudnn.benchmark = all(group.dense is None for group in self.plan.crops)
        preprocessing = self._evaluated.preprocessing
        data = config.data.model_copy(update={"mean": preprocessing.mean, "std": preprocessing.std})
        preprocessor = Preprocessor(data, config.augmentation, device, config.execution.channels_last)
        batch = config.evaluate.batch
        scorer = PlanScorer(model, self.plan, config.execution, preprocessor, device, batch, compiled)
        positions = np.concatenate([self._parts.positions(number) for number in numbers])
        # All ranks are taken to be as far as this one, which saves them from talking about it.
        pending_images = sum(len(self._parts.positions(number)) for number in pending)
        progress = _Progress(self._context, self.plan, len(positions), pending_images / len(positions))
        crops = [seen.crop for seen in expand(self.plan, preprocessing.resize)]
        index, at_once = self._evaluated.index, self._images_at_once
        loader = build_plan_loader(index, positions, crops, at_once, config.loader, device)
        with contextlib.closing(loader):
            batches = iter(loader)
            started = time.perf_counter()
            for number in numbers:
                rows = []
                # The index is cut at multiples of the batch, so no batch belongs to two parts.
                for _ in range(0, len(self._parts.positions(number)), at_once):
                    if self._context.stop.is_set:
                        return
                    # Rounded on the device: half as much to copy.
                    rows.append(scorer.log_probabilities(next(batches).crops).half())
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
