"""The learning rate at every step, as a pure function of the recipe."""

from __future__ import annotations

import dataclasses
import math

from pipeline.config.training import ScheduleConfig
from pipeline.data.order import StreamOrder


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """The rate over all epochs of a run, those with frozen batch norms included."""

    schedule: ScheduleConfig
    base: float
    order: StreamOrder
    epochs: int

    def at(self, step: int) -> float:
        """Return the rate of step `step`, counted from 0.

        Drops and the cosine follow the epoch of the step, fractions included, so the same recipe has the same schedule
        at every batch size and number of images.
        """
        epoch = float(self.order.epoch_of(step))
        warmup = self.schedule.warmup_epochs
        if epoch < warmup:
            warmup_steps = warmup * self.order.num_images / self.order.global_batch
            return self.base * min(1.0, (step + 1) / warmup_steps)
        if self.schedule.kind == "step":
            drops = sum(epoch >= drop for drop in self.schedule.drop_epochs)
            return self.base * self.schedule.drop_factor**drops
        return self.base * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup)))
