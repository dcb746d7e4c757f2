"""What a run left in its stages' directories, read for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.data.findings import Finding, read_findings
from pipeline.data.index import Dataset, read_dataset
from pipeline.evaluation.ensemble import FUSED_PLAN
from pipeline.evaluation.members import FUSION
from pipeline.evaluation.metrics import Ranking, rank_scores
from pipeline.evaluation.scores import read_scores
from pipeline.reporting.class_changes import Comparison, compare
from pipeline.reporting.class_errors import ClassErrors, read_class_errors
from pipeline.running.attempts import Attempt, read_attempts
from pipeline.store.manifest import Manifest, read_manifest
from pipeline.tracking.events import Event, read_events

TRAINING_STAGES = ("train", "freeze_bn")


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One finished stage."""

    name: str
    manifest: Manifest
    attempts: tuple[Attempt, ...]

    @property
    def seconds(self) -> float:
        """Time from start to end over all attempts whose end is known."""
        return sum(attempt.end - attempt.start for attempt in self.attempts if attempt.end is not None)

    @property
    def killed_attempts(self) -> int:
        """Attempts that were ended from outside; their time is not known."""
        return sum(attempt.end is None for attempt in self.attempts)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run that was evaluated; train, freeze_bn and build are only there if they were part of it."""

    config: Config
    stages: Mapping[str, StageRecord]
    dataset: Dataset
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
    """By crop plan, and of the fusion."""
    class_errors: tuple[ClassErrors, ...]
    """Under the first crop plan, in label order."""
    comparison: Comparison | None
    """With the run that `report.compare` names."""

    @property
    def is_trained(self) -> bool:
        """Whether the run trained the weights that it evaluated."""
        return any(name in self.stages for name in TRAINING_STAGES)

    @property
    def is_comparable(self) -> bool:
        """Whether the paper has numbers for this network on these images."""
        return self.dataset.name == "imagenet" and self.config.model.name == "senet154"

    @property
    def frozen_from_epoch(self) -> float | None:
        """Where the epochs with frozen batch norms begin; None where there are none."""
        epochs = [float(event["epoch"]) for event in self.train_events if event["stage"] == "freeze_bn"]
        return min(epochs, default=None)


def read_run_record(config: Config, inputs: Mapping[str, Path], compared: Path | None = None) -> RunRecord:
    """Read the directories of the stages that the report stage has as inputs.

    `compared` is the directory of the evaluation of the run that `report.compare` names.
    """
    results = json.loads((inputs["evaluate"] / "results.json").read_text())
    dataset = read_dataset(inputs["prepare"])
    scores = {plan["name"]: inputs["evaluate"] / plan["scores"]["file"] for plan in results["plans"]}
    scores[FUSED_PLAN] = inputs["fuse"] / f"scores-{FUSED_PLAN}.npy"
    first = results["plans"][0]
    class_errors = read_class_errors(inputs["evaluate"] / first["per_class"])
    comparison = None
    if compared is not None and config.report.compare is not None:
        comparison = compare(Path(config.report.compare), compared, inputs["evaluate"])
    return RunRecord(
        config=config,
        stages={name: _read_stage(name, directory) for name, directory in inputs.items()},
        dataset=dataset,
        findings=tuple(read_findings(inputs["prepare"])),
        network=json.loads((inputs["build"] / "summary.json").read_text()) if "build" in inputs else None,
        train_events=_training_events(inputs, "train"),
        validation_events=_training_events(inputs, "validation"),
        results=results,
        fusion=json.loads((inputs["fuse"] / FUSION).read_text()),
        rankings={name: rank_scores(read_scores(path).array, dataset.val.labels) for name, path in scores.items()},
        class_errors=class_errors,
        comparison=comparison,
    )


def _read_stage(name: str, directory: Path) -> StageRecord:
    manifest = read_manifest(directory)
    assert manifest is not None, f"{directory} was checked to be done"
    return StageRecord(name, manifest, tuple(read_attempts(directory)))


def _training_events(inputs: Mapping[str, Path], kind: str) -> tuple[Event, ...]:
    """Of both training stages in order, each with the stage it is from."""
    return tuple(
        {**event, "stage": name}
        for name in TRAINING_STAGES
        if name in inputs
        for event in read_events(inputs[name], kind)
    )
