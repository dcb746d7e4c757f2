"""Checkpoints that are complete or absent, and checked byte by byte before they are used.

A checkpoint is a sealed directory `step-00000123`, written under a temporary name, flushed and renamed. The seal, the
state and the directory's name hold the step, and must agree. Tensors are safetensors and the rest is JSON: loading one
cannot run code.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.ground.errors import UserError
from pipeline.store.file import remove_leftovers, replacing_directory
from pipeline.store.seal import SEAL, BrokenSeal, remove_sealed, seal_directory, verify_files
from pipeline.training.checkpoint_seal import (
    FILES,
    KIND,
    STATE,
    BrokenCheckpoint,
    numbered,
    read_checkpoint_seal,
    step_name,
)
from pipeline.training.state import TrainingState


@dataclasses.dataclass(frozen=True)
class Saved:
    """A newly written checkpoint, with its duration and size."""

    global_step: int
    path: Path
    seconds: float
    size: int
    """Bytes on disk."""


class CheckpointStore:
    """The checkpoints of one stage."""

    def __init__(self, directory: Path, keep_last: int, keep_best: bool) -> None:
        self.directory = directory
        self._keep_last = keep_last
        self._keep_best = keep_best

    def save(self, state: TrainingState, best_step: int | None) -> Saved:
        """Write a checkpoint, then remove those that need not be kept. For the main rank, one call at a time.

        Raises OSError if writing failed; the earlier checkpoints are unharmed then.
        """
        started = time.monotonic()

        def about() -> dict[str, Any]:
            return {**state.about, "seconds": round(time.monotonic() - started, 3)}

        self.directory.mkdir(exist_ok=True)
        remove_leftovers(self.directory)
        path = self.directory / step_name(state.global_step)
        remove_sealed(path)
        with replacing_directory(path) as temporary:
            state.write(temporary)
            seal_directory(temporary, KIND, about, FILES, name=path.name)
        size = sum(file.stat().st_size for file in path.iterdir())
        self._remove_others(path, best_step)
        return Saved(state.global_step, path, round(time.monotonic() - started, 3), size)

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """Return the newest whole checkpoint, or None; calls `warn` for each newer broken one.

        Raises UserError if there are checkpoints and none is whole: starting from nothing would lose their work.
        """
        broken = []
        for path in numbered(self.directory):
            try:
                verify_checkpoint(path)
            except BrokenCheckpoint as error:
                warn(f"broken checkpoint passed over: {error}")
                broken.append(str(error))
            else:
                return path
        if broken:
            told = [*broken, f"no whole checkpoint is left; delete {self.directory} to start from the beginning"]
            raise UserError("\n".join(told))
        return None

    def _remove_others(self, newest: Path, best_step: int | None) -> None:
        paths = numbered(self.directory)
        # Those of later steps are broken, or training would have gone on from them.
        kept = set(paths[paths.index(newest) :][: self._keep_last])
        if self._keep_best and best_step is not None:
            kept.add(self.directory / step_name(best_step))
        for path in paths:
            if path not in kept:
                remove_sealed(path)


def verify_checkpoint(path: Path) -> None:
    """Check every byte of a checkpoint, once a process. Raises BrokenCheckpoint naming the changed file."""
    seal = read_checkpoint_seal(path)
    try:
        verify_files(path, seal)
    except BrokenSeal as error:
        raise BrokenCheckpoint(str(error)) from error
    step = json.loads((path / STATE).read_bytes())["global_step"]
    if step != seal.about["global_step"]:
        raise BrokenCheckpoint(f"{path / STATE}: of step {step}, the seal is of step {seal.about['global_step']}")


def read_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint that the main rank has verified."""
    return TrainingState.read(path, read_checkpoint_seal(path).about)


def checkpoint_files(path: Path, below: Path) -> list[str]:
    """Return the files of a checkpoint, relative to `below`."""
    return [str((path / name).relative_to(below)) for name in (*FILES, SEAL)]
