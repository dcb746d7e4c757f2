"""The description of a stage for its listeners."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A stage at work in one directory, as plain values."""

    stage: str
    part: str
    """The directory's name without the key: `train`, `prepare-val`."""
    directory: Path
    inputs: Mapping[str, Path]
    """Directories of the input parts by name; their results, if W&B lacks them, are sent with this stage's."""
    run: Path
    """The run directory, which is one W&B run."""
    name: str
    """Name of the W&B run."""
    group: str | None
    """Name of the sweep that the run belongs to, which is a group in W&B."""
    config: Mapping[str, Any]
    """The whole recipe and other facts about the run."""
    trained_steps: int
    """Step of the weights that the stage reads, for results without a step of their own."""
    is_distributed: bool
    """Whether the load of the machine is recorded."""
    tags: tuple[str, ...]
    """Tags of the W&B run when it begins; later ones are its owner's."""
    commit: str | None
    """Git commit of this program, or None outside a checkout."""
    weights: Mapping[str, Path]
    """Weight files to upload by alias, `latest` and `best`: those of the training that the stage reads."""
    checkpoint_seconds: float | None
    """Duration of the stage's newest checkpoint, or None if it has none."""
    pid: int = dataclasses.field(default_factory=os.getpid)
    """Process id of the stage."""

    def to_json(self) -> str:
        """Return the fields as text, for another process."""
        return json.dumps(dataclasses.asdict(self), default=lambda path: str(path.absolute()))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of `to_json`."""
        fields = json.loads(text)
        inputs = {part: Path(directory) for part, directory in fields["inputs"].items()}
        paths = {"directory": Path(fields["directory"]), "run": Path(fields["run"]), "inputs": inputs}
        weights = {alias: Path(file) for alias, file in fields["weights"].items()}
        return cls(**{**fields, **paths, "weights": weights, "tags": tuple(fields["tags"])})
