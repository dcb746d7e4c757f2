"""The directories of an evaluated run, and what they hold."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.evaluation.scores import Scores, read_scores
from pipeline.reporting.class_errors import ClassErrors, read_class_errors
from pipeline.tracking.events import Event, read_events

TRAINING_STAGES = ("train", "freeze_bn")


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that is evaluated."""

    name: str
    config: Config
    directories: Mapping[str, Path]
    """Of its finished stages by name; `evaluate` is among them."""

    @functools.cached_property
    def results(self) -> Mapping[str, Any]:
        """The evaluate stage's results.json."""
        results: Mapping[str, Any] = json.loads((self.directories["evaluate"] / "results.json").read_text())
        return results

    @property
    def plans(self) -> Mapping[str, Mapping[str, Any]]:
        """Results by crop plan."""
        return {result["name"]: result for result in self.results["plans"]}

    def scores(self, plan: str) -> Scores:
        """Open the scores under a crop plan. Raises UserError if they are damaged."""
        return read_scores(self.directories["evaluate"] / self.plans[plan]["scores"]["file"])

    def class_errors(self, plan: str) -> tuple[ClassErrors, ...]:
        """Return the errors of every class under a crop plan, in label order."""
        return read_class_errors(self.directories["evaluate"] / self.plans[plan]["per_class"])

    def training_events(self, kind: str) -> tuple[Event, ...]:
        """Return the events of both training stages in order, each with its stage; none of weights from a file."""
        return tuple(
            {**event, "stage": name}
            for name in TRAINING_STAGES
            if name in self.directories
            for event in read_events(self.directories[name], kind)
        )
