"""The results of a run's stages, read for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.data.findings import Finding, read_findings
from pipeline.data.index import ImageIndex
from pipeline.evaluation.ensemble import FUSED_PLAN
from pipeline.evaluation.members import FUSION
from pipeline.evaluation.metrics import Ranking, rank_scores
from pipeline.evaluation.scores import read_scores
from pipeline.paper.statements import has_errors
from pipeline.reporting.class_errors import ClassErrors
from pipeline.reporting.finished_run import TRAINING_STAGES, FinishedRun
from pipeline.reporting.gates import Gates, read_gates
from pipeline.reporting.side_by_side import SideBySide, side_by_side
from pipeline.running.attempts import Attempt, read_attempts
from pipeline.store.seal import Seal
from pipeline.tracking.events import Event


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One finished stage."""

    name: str
    key: str
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    attempts: tuple[Attempt, ...]

    @property
    def killed_attempts(self) -> int:
        """Number of attempts that were killed, so that their time is not known."""
        return sum(attempt.end is None for attempt in self.attempts)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """An evaluated run; train, freeze_bn and build are there only if they were part of it."""

    config: Config
    stages: Mapping[str, StageRecord]
    indexes: Mapping[str, ImageIndex]
    """Indexes by split."""
    findings: tuple[Finding, ...]
    network: Mapping[str, Any] | None
    """The build stage's summary."""
    train_events: tuple[Event, ...]
    validation_events: tuple[Event, ...]
    results: Mapping[str, Any]
    """The evaluate stage's results.json."""
    fusion: Mapping[str, Any]
    """The fuse stage's fused.json."""
    rankings: Mapping[str, Ranking]
    """Rankings by crop plan, and that of the fusion."""
    class_errors: tuple[ClassErrors, ...]
    """Under the first crop plan, in label order."""
    comparison: SideBySide | None
    """This run beside those that `report.compare` names."""
    gates: Gates | None
    """The result of `activations`, if `report.activations` asked for it."""

    @property
    def is_trained(self) -> bool:
        """Whether the run trained the weights that it evaluated."""
        return any(name in self.stages for name in TRAINING_STAGES)

    @property
    def val(self) -> ImageIndex:
        """The images that were evaluated."""
        return self.indexes["val"]

    @property
    def is_comparable(self) -> bool:
        """Whether the paper has numbers for this network on these images."""
        return self.val.dataset == "imagenet" and self.is_in_paper

    @property
    def is_in_paper(self) -> bool:
        """Whether the paper has numbers for this network, with this block."""
        return has_errors(self.config.model.title)

    @property
    def epochs(self) -> int:
        """Number of epochs of the training: the recipe's, or fewer if a plateau schedule ended it."""
        done = [self.stages[name] for name in TRAINING_STAGES if name in self.stages]
        if self.config.schedule.kind != "plateau" or not done:
            return self.config.train.epochs
        return int(done[-1].metrics["epochs"])

    @property
    def frozen_from_epoch(self) -> float | None:
        """The first epoch with frozen batch norms, or None if there are none."""
        epochs = [float(event["epoch"]) for event in self.train_events if event["stage"] == "freeze_bn"]
        return min(epochs, default=None)


def read_run_record(
    config: Config,
    inputs: Mapping[str, Path],
    seals: Mapping[str, Seal],
    indexes: Mapping[str, ImageIndex],
    others: Sequence[FinishedRun] = (),
) -> RunRecord:
    """Read the directories of the report stage's inputs. `indexes` are those of the splits among them.

    `others` are the runs that `report.compare` names. Raises UserError if their classes or images are others, or if a
    score file is unusable.
    """
    own = FinishedRun("this run", config, inputs)
    scores = {plan: own.scores(plan) for plan in own.plans}
    scores[FUSED_PLAN] = read_scores(inputs["fuse"] / f"scores-{FUSED_PLAN}.npy")
    rankings = {plan: rank_scores(found.array, indexes["val"].labels) for plan, found in scores.items()}
    return RunRecord(
        config=config,
        stages={name: _read_stage(name, directory, seals[name]) for name, directory in inputs.items()},
        indexes=indexes,
        findings=tuple(found for split in indexes for found in read_findings(inputs[f"prepare-{split}"])),
        network=json.loads((inputs["build"] / "summary.json").read_text()) if "build" in inputs else None,
        train_events=own.training_events("train"),
        validation_events=own.training_events("validation"),
        results=own.results,
        fusion=json.loads((inputs["fuse"] / FUSION).read_text()),
        rankings=rankings,
        class_errors=own.class_errors(next(iter(own.plans))),
        comparison=side_by_side((own, *others), rankings) if others else None,
        gates=read_gates(inputs["activations"]) if "activations" in inputs else None,
    )


def _read_stage(name: str, directory: Path, seal: Seal) -> StageRecord:
    about, attempts = seal.about, tuple(read_attempts(directory))
    return StageRecord(name, about["key"], about["metrics"], about["provenance"], attempts)
