"""Stages that are done, or begun, without having run: what `launch` reads of them is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.index import make_index, write_index
from pipeline.running.stage import PlacedStage
from pipeline.store.seal import seal_directory
from tests.sealed import seal_part


def finish(stage: PlacedStage, metrics: Mapping[str, Any] | None = None) -> None:
    """Seal every part of a stage, with the same figures."""
    for part in stage.parts:
        seal_part(part, metrics=metrics)


def finish_prepare(stage: PlacedStage, num_images: int) -> None:
    """Seal the parts of `prepare`, each with an index of so many images."""
    for part in stage.parts:
        part.directory.mkdir(parents=True)
        nothing = np.zeros(num_images, dtype=np.int64)
        names = [f"{number}.JPEG" for number in range(num_images)]
        digests = np.zeros((num_images, 32), dtype=np.uint8)
        index = make_index(str(part.split), "folder", (), names, nothing, nothing, nothing, nothing, digests, nothing)
        seal_part(part, write_index(part.directory, index))


def save_checkpoint(directory: Path, step: int) -> Path:
    """A sealed checkpoint without files below a training stage's directory."""
    checkpoint = directory / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    seal_directory(checkpoint, "checkpoint", {"global_step": step}, [])
    return checkpoint
