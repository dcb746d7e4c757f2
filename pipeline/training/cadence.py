"""The steps after which training validates and saves. Imports no torch, so that a plan can count them."""

from __future__ import annotations

import dataclasses

from pipeline.config.schema import Config
from pipeline.data.order import StreamOrder


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Cadence of a phase that ends with step `last_step`, counted from 1 over the whole run; it validates and saves
    there."""

    config: Config
    order: StreamOrder
    last_step: int

    def validates_after(self, step: int) -> bool:
        """Return whether the weights after this step are validated."""
        return step == self.last_step or self._ends_epochs(step, self.config.train.validate_every_epochs)

    def saves_after(self, step: int) -> bool:
        """Return whether a checkpoint is taken after this step, the validation included."""
        every_steps = self.config.checkpoint.every_steps
        return (
            step == self.last_step
            or self._ends_epochs(step, self.config.checkpoint.every_epochs)
            or (every_steps is not None and step % every_steps == 0)
        )

    def _ends_epochs(self, step: int, every: int) -> bool:
        """Return whether this is the first step after an epoch's last image, for every `every`-th epoch."""
        # Integers, since this is asked after every step and, by a plan, for every step of a run at once.
        epoch = step * self.order.global_batch // self.order.num_images
        return epoch > (step - 1) * self.order.global_batch // self.order.num_images and epoch % every == 0
