"""Checkpoints that are whole or not there, and whose every byte is checked before it is used.

A checkpoint is a directory `step-00000123`, written under a temporary name, flushed and renamed; inside it a manifest
with the size and SHA-256 of each file, since no tensor format notices a flipped bit. Tensors are safetensors and
the rest is JSON: loading one cannot run code. `latest.json` names the newest one and moves last.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.engines.engine import OptimizerState
from pipeline.ground.errors import UserError
from pipeline.models.weights import read_weights, save_weights
from pipeline.store.file import remove_leftovers, replacing_directory, sha256_of, write_json

LATEST = "latest.json"
_MANIFEST = "manifest.json"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_FILES = (_MODEL, _OPTIMIZER, _STATE)


class BrokenCheckpoint(Exception):
    """Not a whole checkpoint; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that training goes on from."""

    global_step: int
    model: Mapping[str, torch.Tensor]
    optimizer: OptimizerState
    state: Mapping[str, Any]
    """The trainer's own plain values: the loader's state, the event log's position, the best result so far."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was just written, and what that took."""

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

    def save(self, checkpoint: Checkpoint, best_step: int | None) -> Saved:
        """Write one, then move `latest.json`, then remove what need not be kept. Main rank only, one call at a time.

        UserError where the disk is full; the earlier checkpoints are unharmed then.
        """
        started = time.monotonic()
        self.directory.mkdir(exist_ok=True)
        remove_leftovers(self.directory)
        path = self.directory / _name(checkpoint.global_step)
        _remove(path)
        with replacing_directory(path) as temporary:
            save_weights(temporary / _MODEL, checkpoint.model, {})
            save_weights(temporary / _OPTIMIZER, checkpoint.optimizer.tensors, {})
            write_json(temporary / _STATE, {"optimizer": dict(checkpoint.optimizer.values), **checkpoint.state})
            files = {
                name: {"size": (temporary / name).stat().st_size, "sha256": sha256_of(temporary / name)}
                for name in _FILES
            }
            write_json(temporary / _MANIFEST, {"global_step": checkpoint.global_step, "files": files})
        size = sum(file.stat().st_size for file in path.iterdir())
        saved = Saved(checkpoint.global_step, path, round(time.monotonic() - started, 3), size)
        write_json(self.directory / LATEST, {"checkpoint": path.name, "seconds": saved.seconds, "bytes": saved.size})
        self._remove_others(path, best_step)
        return saved

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest whole checkpoint; each broken one passed over on the way is named to `warn`.

        UserError where there are checkpoints and none is whole: starting from nothing would throw their work away.
        """
        paths = sorted(_numbered(self.directory), reverse=True)
        broken = []
        for path in paths:
            try:
                verify_checkpoint(path)
            except BrokenCheckpoint as error:
                warn(f"broken checkpoint passed over: {error}")
                broken.append(str(error))
            else:
                return path
        if broken:
            raise UserError(
                "\n".join(
                    [*broken, f"no whole checkpoint is left; delete {self.directory} to start from the beginning"]
                )
            )
        return None

    def _remove_others(self, newest: Path, best_step: int | None) -> None:
        # Those of later steps are broken, or training would have gone on from them.
        kept = set(sorted(path for path in _numbered(self.directory) if path <= newest)[-self._keep_last :])
        if self._keep_best and best_step is not None:
            kept.add(self.directory / _name(best_step))
        for path in _numbered(self.directory):
            if path not in kept:
                _remove(path)


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """Check that every file is there with the size and SHA-256 it was written with; returns the manifest.

    BrokenCheckpoint names the first file that is not.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text())
        expected = {name: (manifest["files"][name]["size"], manifest["files"][name]["sha256"]) for name in _FILES}
        int(manifest["global_step"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BrokenCheckpoint(f"{path / _MANIFEST}: {error or type(error).__name__}") from error
    for name, (size, sha256) in expected.items():
        file = path / name
        if not file.is_file():
            raise BrokenCheckpoint(f"{file}: missing")
        if file.stat().st_size != size:
            raise BrokenCheckpoint(f"{file}: {file.stat().st_size:,} bytes where {size:,} were written")
        if sha256_of(file) != sha256:
            raise BrokenCheckpoint(f"{file}: its content has changed since it was written (SHA-256 differs)")
    return manifest


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify and load a checkpoint directory. UserError where it is not a whole checkpoint."""
    try:
        manifest = verify_checkpoint(path)
    except BrokenCheckpoint as error:
        raise UserError(f"not a whole checkpoint: {error}") from error
    state = json.loads((path / _STATE).read_text())
    values = state.pop("optimizer")
    return Checkpoint(
        global_step=manifest["global_step"],
        model=read_weights(path / _MODEL),
        optimizer=OptimizerState(read_weights(path / _OPTIMIZER), values),
        state=state,
    )


def checkpoint_files(path: Path, below: Path) -> list[str]:
    """The files of a checkpoint, relative to `below`."""
    return [str((path / name).relative_to(below)) for name in (*_FILES, _MANIFEST)]


def _name(global_step: int) -> str:
    return f"step-{global_step:08d}"


def _numbered(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return [path for path in directory.iterdir() if re.fullmatch(r"step-\d{8,}", path.name)]


def _remove(path: Path) -> None:
    """Manifest first, so that a half-removed checkpoint is never taken for a whole one."""
    (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
