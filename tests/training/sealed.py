"""Checkpoints without contents, for tests that read seals alone. Never imports torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.store.seal import seal_directory
from pipeline.training.checkpoint_seal import FILES, KIND, step_name


def seal_checkpoint(directory: Path, global_step: int, seconds: float = 1.0) -> Path:
    """Make the checkpoint of a step in a folder of checkpoints; returns its own."""
    path = directory / step_name(global_step)
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).touch()
    about = {"global_step": global_step, "images": {}, "num_images": 0, "global_batch": 0, "seconds": seconds}
    seal_directory(path, KIND, about, FILES)
    return path
