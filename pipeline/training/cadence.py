"""What is due after which optimizer step. Never imports torch, so that a plan can count what a run will do."""

from __future__ import annotations

import dataclasses

from pipeline.config.schema import Config
from pipeline.data.order import StreamOrder


@dataclasses.dataclass(frozen=True)
class Actions:
    """What follows a step."""

    validation: bool
    checkpoint: bool


def actions_after(done: int, config: Config, order: StreamOrder, last_step: int) -> Actions:
    """What follows when `done` steps of the whole run are behind; both are due at the end of a phase, `last_step`.

    An epoch ends with the first step after which all its images were seen.
    """
    if done == last_step:
        return Actions(validation=True, checkpoint=True)
    # Whole numbers, since this is asked after every step and, by a plan, for every step of a run at once.
    epoch = done * order.global_batch // order.num_images
    ends_epoch = epoch > (done - 1) * order.global_batch // order.num_images
    every_steps = config.checkpoint.every_steps
    return Actions(
        validation=ends_epoch and epoch % config.train.validate_every_epochs == 0,
        checkpoint=(ends_epoch and epoch % config.checkpoint.every_epochs == 0)
        or (every_steps is not None and done % every_steps == 0),
    )
