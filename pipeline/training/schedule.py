"""The learning rate at every step: a function of the recipe and, if it asks for that, of the validation losses."""

from __future__ import annotations

import dataclasses
import math

from pipeline.config.training import ScheduleConfig
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """The rate over all epochs of a run, those with frozen batch norms included."""

    schedule: ScheduleConfig
    base: float
    order: StreamOrder
    epochs: int

    def __post_init__(self) -> None:
        check_lengths(self.schedule, self.order, self.epochs)

    def is_warming_up(self, step: int) -> bool:
        """Return whether step `step`, counted from 0, belongs to the warm-up."""
        return float(self.order.epoch_of(step)) < self._warmup

    @property
    def _warmup(self) -> float:
        """Length in epochs."""
        return self.schedule.warmup_epochs or float(self.order.epoch_of(self.schedule.warmup_steps))

    def at(self, step: int, drops: int = 0) -> float:
        """Return the rate of step `step`, counted from 0, after `drops` drops of a plateau schedule.

        Drops and the cosine follow the epoch of the step, fractions included, so a recipe whose lengths are in epochs
        has the same schedule at every batch size and number of images.
        """
        epoch, warmup = float(self.order.epoch_of(step)), self._warmup
        if self.is_warming_up(step):
            if self.schedule.warmup_lr is not None:
                return self.schedule.warmup_lr
            warmup_steps = warmup * self.order.num_images / self.order.global_batch
            return self.base * min(1.0, (step + 1) / warmup_steps)
        if self.schedule.kind == "plateau":
            return max(self.base * self.schedule.drop_factor**drops, min(self.schedule.smallest_lr, self.base))
        if self.schedule.kind == "step":
            drops = sum(epoch >= drop for drop in self.schedule.drop_epochs)
            drops += sum(step >= drop for drop in self.schedule.drop_steps)
            return self.base * self.schedule.drop_factor**drops
        return self.base * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup)))


def check_lengths(schedule: ScheduleConfig, order: StreamOrder, epochs: int) -> None:
    """Raise UserError if a length in steps reaches the end of training."""
    end = order.steps_for(epochs)
    within = f"the {end:,} steps of train.epochs = {epochs}"
    if schedule.warmup_steps >= end:
        raise UserError(f"schedule.warmup_steps: must be less than {within} (given {schedule.warmup_steps:,})")
    if late := [step for step in schedule.drop_steps if step >= end]:
        earlier = [step for step in schedule.drop_steps if step < end]
        raise UserError(
            f"schedule.drop_steps: must come before the end of {within} (given {late}); write "
            f"schedule.drop_steps={earlier}, or when else the rate is to drop"
        )


@dataclasses.dataclass
class Plateau:
    """Whether the validation loss has stopped falling: the state of a plateau schedule, plain JSON values.

    Decides as torch.optim.lr_scheduler.ReduceLROnPlateau does, by the loss alone.
    """

    best: float | None = None
    bad_epochs: int = 0
    """Epochs in a row without a better loss."""
    drops: int = 0
    has_ended: bool = False
    """Whether the rate would have dropped once more than `max_drops`: training is over."""

    def add(self, loss: float, schedule: ScheduleConfig) -> None:
        """Take the loss at the end of an epoch: count a drop, or the end of training, where the loss has settled."""
        if loss < (math.inf if self.best is None else self.best * (1 - schedule.threshold)):
            self.best, self.bad_epochs = loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > schedule.patience:
            self.bad_epochs = 0
            self.has_ended = self.drops == schedule.max_drops
            self.drops += not self.has_ended
