"""The whole training state, as one object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.models.weights import read_weights, save_weights
from pipeline.store.file import write_json
from pipeline.training.checkpoint_seal import MODEL, OPTIMIZER, STATE

_ABOUT = ("global_step", "images", "num_images", "global_batch")


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Training between two steps: named tensors, and plain JSON values."""

    global_step: int
    model: Mapping[str, torch.Tensor]
    optimizer: OptimizerState
    loader: Mapping[str, Any]
    """The state of the training loader."""
    events: Any
    """The position of the event log."""
    validations: Mapping[str, Any]
    """The fields of the `ValidationRecord`."""
    images: Mapping[str, str]
    """Digest of the index by split."""
    num_images: int
    """Number of images in the training split."""
    global_batch: int
    world: Mapping[str, Any]
    """The value of `describe_world`."""
    plateau: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The fields of the `Plateau`."""

    @property
    def about(self) -> dict[str, Any]:
        """Return the `about` of the checkpoint's seal, for readers that need nothing else."""
        return {name: getattr(self, name) for name in _ABOUT}

    def write(self, directory: Path) -> None:
        """Write the files of a checkpoint: everything but `about`, and the step again, for comparison."""
        save_weights(directory / MODEL, self.model, {})
        save_weights(directory / OPTIMIZER, self.optimizer.tensors, {})
        state = {
            "global_step": self.global_step,
            "optimizer": dict(self.optimizer.values),
            "loader": self.loader,
            "events": self.events,
            "validations": self.validations,
            "world": self.world,
            "plateau": self.plateau,
        }
        write_json(directory / STATE, state)

    @classmethod
    def read(cls, directory: Path, about: Mapping[str, Any]) -> TrainingState:
        """Read the files of a checkpoint whose seal has this `about`; tensors are on the CPU."""
        state = json.loads((directory / STATE).read_bytes())
        optimizer = OptimizerState(read_weights(directory / OPTIMIZER), state.pop("optimizer"))
        facts = {name: about[name] for name in _ABOUT}
        return cls(model=read_weights(directory / MODEL), optimizer=optimizer, **(state | facts))
