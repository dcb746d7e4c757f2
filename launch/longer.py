"""A run whose `train.epochs` was raised: whether its finished training is gone on from, said before anything starts."""

from __future__ import annotations

import dataclasses

from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.data.index import read_index
from pipeline.data.order import StreamOrder
from pipeline.running.stage import parts_of
from pipeline.training.shorter import find_shorter


@dataclasses.dataclass(frozen=True)
class Longer:
    """What becomes of a training when its recipe wants another number of epochs, or another schedule."""

    note: str
    """What is gone on from."""
    obstacle: str | None
    """Why that cannot be."""


def describe_longer(config: Config, placed: Stages, old_key: str) -> Longer | None:
    """Look at the sealed training stage of key `old_key`.

    Returns None if it is not sealed, or something else of the recipe has changed too.
    """
    part, prepared = parts_of(placed)["train"], parts_of(placed)["prepare-train"]
    if not prepared.is_done:
        return None
    old = part.directory.with_name(f"{part.name}-{old_key}")
    shorter = [
        each for each in find_shorter(part.directory, part.version, part.inputs, part.identity) if each.directory == old
    ]
    if not shorter:
        return None
    order = StreamOrder(len(read_index(prepared.directory)), config.train.global_batch, config.seed)
    note = (
        f"train.epochs {shorter[0].epochs} -> {config.train.epochs}: train goes on after step {shorter[0].last_step:,} "
        f"of {old}, with frozen batch norms only at its new end"
    )
    return Longer(note, shorter[0].obstacle(part.identity, order, order.steps_for(config.train_stage_epochs)))
