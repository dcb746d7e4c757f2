"""What a run left in its stages' directories, read for the report."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.data.findings import Finding, read_findings
from pipeline.data.index import Dataset, read_dataset
from pipeline.runs.life import Life, read_lives
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.tracking.events import Event, read_events

TRAINING_STAGES = ("train", "freeze_bn")


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """One finished stage."""

    name: str
    manifest: Manifest
    lives: tuple[Life, ...]

    @property
    def seconds(self) -> float:
        """Time from start to end over all lives whose end is known."""
        return sum(life.end - life.start for life in self.lives if life.end is not None)

    @property
    def killed_lives(self) -> int:
        """Lives that were ended from outside; their time is not known."""
        return sum(life.end is None for life in self.lives)


@dataclasses.dataclass(frozen=True)
class ClassErrors:
    """A class under the first crop plan."""

    label: int
    folder: str
    words: str
    images: int
    top1_errors: int
    top5_errors: int

    @property
    def top1_error_percent(self) -> float:
        """0 for a class without validation images."""
        return 100 * self.top1_errors / self.images if self.images else 0.0

    @property
    def top5_error_percent(self) -> float:
        """0 for a class without validation images."""
        return 100 * self.top5_errors / self.images if self.images else 0.0


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
    class_errors: tuple[ClassErrors, ...]
    """Under the first crop plan, in label order."""

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


def read_run_record(config: Config, inputs: Mapping[str, Path]) -> RunRecord:
    """Read the directories of the stages that the report stage has as inputs."""
    results = json.loads((inputs["evaluate"] / "results.json").read_text())
    return RunRecord(
        config=config,
        stages={name: _read_stage(name, directory) for name, directory in inputs.items()},
        dataset=read_dataset(inputs["prepare"]),
        findings=tuple(read_findings(inputs["prepare"])),
        network=json.loads((inputs["build"] / "summary.json").read_text()) if "build" in inputs else None,
        train_events=_training_events(inputs, "train"),
        validation_events=_training_events(inputs, "validation"),
        results=results,
        class_errors=_read_class_errors(inputs["evaluate"] / results["plans"][0]["per_class"]),
    )


def _read_stage(name: str, directory: Path) -> StageRecord:
    manifest = read_manifest(directory)
    assert manifest is not None, f"{directory} was checked to be done"
    return StageRecord(name, manifest, tuple(read_lives(directory)))


def _training_events(inputs: Mapping[str, Path], kind: str) -> tuple[Event, ...]:
    """Of both training stages in order, each with the stage it is from."""
    return tuple(
        {**event, "stage": name}
        for name in TRAINING_STAGES
        if name in inputs
        for event in read_events(inputs[name], kind)
    )


def _read_class_errors(path: Path) -> tuple[ClassErrors, ...]:
    counts = ("label", "images", "top1_errors", "top5_errors")
    return tuple(
        ClassErrors(folder=row["folder"], words=row["words"], **{name: int(row[name]) for name in counts})
        for row in _read_table(path)
    )


def _read_table(path: Path) -> tuple[Mapping[str, str], ...]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return tuple(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
