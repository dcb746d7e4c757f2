"""The checkpoint that the config names to freeze the batch norms of. Never imports torch."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.ground.errors import UserError


def initial_step(place: str) -> int:
    """The optimizer step of the checkpoint directory `place`. UserError where that is no checkpoint."""
    try:
        manifest = json.loads((Path(place) / "manifest.json").read_text())
        if {"global_step", "files"} <= manifest.keys():
            return int(manifest["global_step"])
    except (OSError, ValueError, AttributeError):
        pass
    raise UserError(
        "freeze_bn.from_checkpoint: must be the directory of a checkpoint, as "
        f"runs/demo/train-KEY/checkpoints/step-00000180 (given {place}{_newest(Path(place))})"
    )


def _newest(place: Path) -> str:
    """What was meant where a stage or its folder of checkpoints was given."""
    for folder in (place, place / "checkpoints"):
        try:
            return f"; its newest is {folder / json.loads((folder / 'latest.json').read_text())['checkpoint']}"
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return ""
