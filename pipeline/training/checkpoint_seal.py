"""The seals of checkpoints, read without their tensors. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.store.seal import SEAL, BrokenSeal, Seal, read_seal

CHECKPOINTS = "checkpoints"
"""Folder of a training stage."""
KIND = "checkpoint"
MODEL, OPTIMIZER, STATE = FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class BrokenCheckpoint(Exception):
    """A checkpoint differs from its seal; the message names the file and the difference."""


def step_name(global_step: int) -> str:
    """Return the name of a checkpoint's directory."""
    return f"step-{global_step:08d}"


def numbered(directory: Path) -> list[Path]:
    """Return the checkpoint directories in a folder, broken ones included, newest first."""
    if not directory.is_dir():
        return []
    named = (path for path in directory.iterdir() if re.fullmatch(r"step-\d{8,}", path.name))
    return sorted(named, key=_step_of, reverse=True)


def read_checkpoint_seal(path: Path) -> Seal:
    """Read and check the seal of a checkpoint directory, but not its files; its `about` has the `global_step`.

    Raises BrokenCheckpoint if it is missing, damaged, or another checkpoint's.
    """
    try:
        seal = read_seal(path, KIND)
    except BrokenSeal as error:
        raise BrokenCheckpoint(str(error)) from error
    if seal is None:
        raise BrokenCheckpoint(f"{path / SEAL}: missing")
    if path.name != step_name(seal.about["global_step"]):
        raise BrokenCheckpoint(f"{path / SEAL}: says step {seal.about['global_step']}, which is not its directory's")
    return seal


def newest_sealed(directory: Path) -> tuple[Path, Seal] | None:
    """Return the newest checkpoint with a valid seal, or None; its files are not checked."""
    for path in numbered(directory):
        try:
            return path, read_checkpoint_seal(path)
        except BrokenCheckpoint:
            continue
    return None


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
