"""Finished trainings that a longer one can go on from: each of their steps is one that it would have taken alike.

Free of torch, so that a launch can say so beforehand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.training import ScheduleConfig
from pipeline.data.order import StreamOrder
from pipeline.store.file import link_or_copy, replacing_directory
from pipeline.store.seal import BrokenSeal, read_seal
from pipeline.tracking.events import EventLog
from pipeline.training.checkpoint_seal import CHECKPOINTS, numbered
from pipeline.training.schedule import LearningRate

_EPOCHS, _SCHEDULE = "train.epochs", "schedule."
Identity = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ShorterTraining:
    """A sealed training stage whose recipe differs in `train.epochs` and the schedule alone."""

    directory: Path
    identity: Identity
    images: Mapping[str, str]
    """Digest of the index by split."""
    last_step: int

    @property
    def epochs(self) -> int:
        """Its `train.epochs`."""
        return int(self.identity[_EPOCHS])

    def obstacle(self, identity: Identity, order: StreamOrder, last_step: int) -> str | None:
        """Return why a training of this identity to `last_step` cannot go on from here, or None if it can."""
        if self.last_step > last_step:
            return f"{self.directory.name} has taken {self.last_step:,} steps, and this recipe has only {last_step:,}"
        before, after = (_rates(each, order) for each in (self.identity, identity))
        if "plateau" in (before.schedule.kind, after.schedule.kind):
            same = before.schedule == after.schedule
            return None if same else f"{self.directory.name} followed its validation losses by another schedule"
        for step in range(self.last_step):
            if before.at(step) != after.at(step):
                cosine = ", since a cosine follows from the last epoch" if after.schedule.kind == "cosine" else ""
                return (
                    f"step {step + 1:,} of {self.directory.name} had the rate {before.at(step):.6g}, and would now "
                    f"have {after.at(step):.6g}{cosine}"
                )
        return None

    def hand_over(self, directory: Path, events: EventLog) -> None:
        """Give a stage directory that has no checkpoint yet this one's record and checkpoints, to go on from there."""
        events.adopt(self.directory)
        # The newest last: a process killed on the way goes on from an earlier one, or from here once more.
        for checkpoint in reversed(numbered(self.directory / CHECKPOINTS)):
            with replacing_directory(directory / CHECKPOINTS / checkpoint.name) as temporary:
                for file in checkpoint.iterdir():
                    link_or_copy(file, temporary / file.name)


def find_shorter(directory: Path, version: int, inputs: Mapping[str, str], identity: Identity) -> list[ShorterTraining]:
    """Return those beside a training stage's directory, the longest first.

    They have its version, inputs (parts and their keys) and identity, but for `train.epochs` and the schedule.
    """
    found = []
    for other in directory.parent.glob(f"{directory.name.rpartition('-')[0]}-*"):
        try:
            seal = None if other == directory else read_seal(other, "stage")
        except BrokenSeal:
            continue
        if seal is None or (seal.about["version"], seal.about["inputs"]) != (version, dict(inputs)):
            continue
        if only_longer(seal.about["identity"], identity) and numbered(other / CHECKPOINTS):
            metrics, about = seal.about["metrics"], seal.about
            found.append(ShorterTraining(other, about["identity"], about["images"], metrics["global_step"]))
    return sorted(found, key=lambda each: each.last_step, reverse=True)


def only_longer(before: Identity, after: Identity) -> bool:
    """Return whether two identities differ in the number of epochs and the schedule alone."""
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return all(name == _EPOCHS or name.startswith(_SCHEDULE) for name in changed)


def _rates(identity: Identity, order: StreamOrder) -> LearningRate:
    fields = {name.removeprefix(_SCHEDULE): value for name, value in identity.items() if name.startswith(_SCHEDULE)}
    return LearningRate(ScheduleConfig.model_validate(fields), identity["optim.lr"], order, identity[_EPOCHS])
