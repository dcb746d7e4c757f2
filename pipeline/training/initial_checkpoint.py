"""The checkpoint that the config names as the start of freeze_bn. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.store.seal import is_sealed
from pipeline.training.checkpoint_seal import CHECKPOINTS, BrokenCheckpoint, newest_sealed, read_checkpoint_seal


def initial_step(place: str) -> int:
    """Return the step of the checkpoint directory `place`. Raises UserError if it is none, or its seal is damaged."""
    path = Path(place)
    try:
        return int(read_checkpoint_seal(path).about["global_step"])
    except BrokenCheckpoint as error:
        # A stage, or its folder of checkpoints, may have been given instead.
        newest = newest_sealed(path) or newest_sealed(path / CHECKPOINTS)
        if newest is None and is_sealed(path):
            raise UserError(f"freeze_bn.from_checkpoint: not a whole checkpoint: {error}") from error
    hint = "" if newest is None else f"; its newest is {newest[0]}"
    raise UserError(
        "freeze_bn.from_checkpoint: must be the directory of a checkpoint, as "
        f"runs/demo/train-KEY/checkpoints/step-00000180 (given {place}{hint})"
    )
