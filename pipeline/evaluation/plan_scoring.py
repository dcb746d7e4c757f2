"""The scores of one crop plan: found finished, copied from another evaluation, resumed, or computed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config.crop_plan import CropPlan
from pipeline.config.identity import key_of
from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.preprocessing import Preprocessing
from pipeline.evaluation.expansion import expand, images_at_once
from pipeline.evaluation.inference import Network
from pipeline.evaluation.loading import build_scorer
from pipeline.evaluation.parts import Part, PartFolder
from pipeline.evaluation.scores import (
    ScoreDescription,
    ScoreFile,
    Scores,
    digest_classes,
    digest_images,
    find_invalid_row,
    open_scores,
)
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.seal import BrokenSeal, remove_sealed
from pipeline.tracking.events import EventLog

BATCHES_PER_PART = 4
"""Batches per part, so that a kill costs each rank at most the work on these."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Weights, the images that they are evaluated on, and the settings."""

    config: Config
    version: int
    """Version of the stage."""
    identity: Mapping[str, Any]
    """Identity of the stage's sections, without its list of plans."""
    weights: Path
    weights_sha256: str
    preprocessing: Preprocessing
    index: ImageIndex

    def describe(self, plan: CropPlan) -> ScoreDescription:
        """Describe the plan's score file, except for its seconds."""
        index = self.index
        classes_sha256 = digest_classes(index.classes)
        crops = plan.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        made_from = (self.version, crops, self.weights_sha256, index.digest, classes_sha256, dict(self.identity))
        return ScoreDescription(
            plan=plan.name,
            averaging=plan.averaging,
            split=self.config.evaluate.split,
            weights=str(self.weights),
            weights_sha256=self.weights_sha256,
            images=len(index),
            images_sha256=digest_images(index.names),
            classes=len(index.classes),
            classes_sha256=classes_sha256,
            index_sha256=index.digest,
            key=key_of("scores", *made_from),
            seconds=0.0,
        )


class PlanScoring:
    """The scores of one plan in a stage's directory. All ranks call each method unless it says otherwise."""

    def __init__(
        self,
        evaluated: Evaluated,
        plan: CropPlan,
        directory: Path,
        siblings: Sequence[Path],
        collective: Collective,
        events: EventLog,
        stop: StopFlag,
    ) -> None:
        """Prepare the scoring; `siblings` are other evaluations, whose scores and parts of the same key are copied."""
        self.plan = plan
        self.file = ScoreFile(directory, plan.name)
        self._evaluated = evaluated
        self._description = evaluated.describe(plan)
        self._images_at_once = images_at_once(plan, evaluated.config.evaluate.batch)
        self._parts = PartFolder(
            directory / f"parts-{plan.name}",
            self._description.key,
            num_images=self._description.images,
            num_classes=self._description.classes,
            images_per_part=BATCHES_PER_PART * self._images_at_once,
        )
        self._siblings = siblings
        self._collective = collective
        self._events = events
        self._stop = stop

    def finished(self) -> Scores | None:
        """Return the finished scores, or None. Damaged ones are removed, with a line. For the main rank."""
        try:
            return open_scores(self.file.path, self._description.key)
        except BrokenSeal as problem:
            self._note(f"{problem}; it is computed again", level="warning")
            remove_sealed(self.file.path)
            return None

    def complete(self, model: nn.Module, compiled: Network | None) -> Scores | None:
        """Compute the missing parts, and return the finished scores on the main rank, None on the others.

        The missing parts are divided among the ranks, which do not communicate before they have finished.
        """
        collective = self._collective
        scores = (self.finished() or self._take_over()) if collective.ranks.is_main else None
        if not collective.broadcast(scores is not None):
            pending = collective.broadcast(self._missing_parts() if collective.ranks.is_main else None)
            with collective.apart():
                self._compute(model, compiled, pending)
            if collective.any(self._stop.is_set):
                raise StopRequested(
                    f"stopped on request while scoring plan '{self.plan.name}'; the same command goes on"
                )
            if collective.ranks.is_main:
                scores = self.file.assemble(self._parts, self._description)
        if collective.ranks.is_main:
            self._parts.remove()
        return scores

    def _take_over(self) -> Scores | None:
        for folder in self._siblings:
            scores = self.file.take_over(self._description, folder)
            if scores is not None:
                self._note(f"plan '{self.plan.name}': the scores are there already, in {folder}")
                return scores
        return None

    def _missing_parts(self) -> list[int]:
        others = (parts for folder in self._siblings for parts in sorted(folder.glob("parts-*")))
        pending, problems = self._parts.survey(others)
        for problem in problems:
            self._note(f"{problem}; it is computed again", level="warning")
        if 0 < len(pending) < len(self._parts):
            self._note(f"plan '{self.plan.name}': going on with {len(pending)} of {len(self._parts)} parts to do")
        return pending

    def _note(self, text: str, level: str = "info") -> None:
        self._events.show("note", level=level, text=text)

    def _compute(self, model: nn.Module, compiled: Network | None, pending: list[int]) -> None:
        """Compute and write this rank's part of `pending`, one after the other, until a stop is requested."""
        ranks, index, at_once = self._collective.ranks, self._evaluated.index, self._images_at_once
        numbers = pending[ranks.rank :: ranks.world_size]
        if not numbers:
            return
        config = self._evaluated.config
        preprocessing, batch = self._evaluated.preprocessing, config.evaluate.batch
        scorer = build_scorer(
            model, self.plan, preprocessing, config.execution, self._collective.device, batch, compiled
        )
        positions = np.concatenate([self._parts.positions(number) for number in numbers])
        # All ranks are assumed to be as far as this one, so that they need not communicate.
        pending_images = sum(len(self._parts.positions(number)) for number in pending)
        progress = Progress(self._events, self.plan.name, len(positions), pending_images / len(positions))
        crops = [planned.crop for planned in expand(self.plan, self._evaluated.preprocessing.resize)]
        loading, device = self._evaluated.config.loader, self._collective.device
        with contextlib.closing(build_plan_loader(index, positions, crops, at_once, loading, device)) as loader:
            batches = iter(loader)
            started = time.perf_counter()
            for number in numbers:
                rows = []
                # The index is split at multiples of the batch, so no batch belongs to two parts.
                for _ in range(0, len(self._parts.positions(number)), at_once):
                    if self._stop.is_set:
                        return
                    # Rounded on the device: half as much to copy.
                    rows.append(scorer.log_probabilities(next(batches).crops).half())
                    progress.add(len(rows[-1]))
                scores = torch.cat(rows).cpu().numpy()
                row = find_invalid_row(scores)
                if row is not None:
                    raise UserError(
                        f"{index.name(int(self._parts.positions(number)[row]))}: under plan '{self.plan.name}' the "
                        f"network answers with NaN or infinity; an activation overflows in execution.precision = "
                        f"{self._evaluated.config.execution.precision}, or the weights are no trained network's"
                    )
                ended = time.perf_counter()
                self._parts.write(number, Part(scores, (ended - started) / ranks.world_size))
                started = ended


@dataclasses.dataclass
class Progress:
    """Shows the progress of a pass over images, as seen by the main rank."""

    events: EventLog
    plan: str
    images: int
    """Images of this rank."""
    scale: float
    """Images of all ranks for each of this rank's."""
    done: int = 0
    started: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, images: int) -> None:
        """Show that so many more images are finished."""
        self.done += images
        self.events.show(
            "progress",
            done=round(self.done * self.scale),
            total=round(self.images * self.scale),
            unit="images",
            rate=self.done * self.scale / (time.perf_counter() - self.started),
            text=self.plan,
        )
