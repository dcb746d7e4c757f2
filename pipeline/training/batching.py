"""Split the global batch into the micro-batches of the processes. Imports no torch."""

from __future__ import annotations

import dataclasses

from pipeline.config.schema import Config
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError

_FEWEST_IMAGES = 8
"""From fewer, the batch norms' means and variances are mostly noise."""


@dataclasses.dataclass(frozen=True)
class BatchSplit:
    """world_size x micro_batch x accumulation = the global batch."""

    world_size: int
    local_batch: int
    """Images of one process in an optimizer step."""
    micro_batch: int
    """Images of one process in a forward pass."""
    accumulation: int
    """Micro-batches whose gradients one optimizer step adds up."""

    @property
    def global_batch(self) -> int:
        """Images per optimizer step over all processes."""
        return self.world_size * self.local_batch


def split_batch(global_batch: int, world_size: int, max_micro_batch: int) -> BatchSplit:
    """Return the split into equal micro-batches, as large as possible up to `max_micro_batch`.

    Raises UserError if the world size does not divide the global batch, naming the nearest numbers that do.
    """
    local_batch, rest = divmod(global_batch, world_size)
    if rest:
        processes = _divisors(global_batch)
        batches = [size for size in (global_batch - rest, global_batch - rest + world_size) if size]
        raise UserError(
            f"train.global_batch: {global_batch} images cannot be shared equally by {world_size} processes "
            f"({global_batch} / {world_size} = {global_batch / world_size:g}); use {_nearest(processes, world_size)} "
            f"processes, or a global batch of {_nearest(batches, global_batch)}"
        )
    micro_batch = _divisors(local_batch, max_micro_batch)[-1]
    return BatchSplit(world_size, local_batch, micro_batch, local_batch // micro_batch)


def describe_batch(split: BatchSplit, lr: float) -> str:
    """Describe the parts of the global batch, and the batch that the learning rate is for."""
    parts = (split.world_size, "process"), (split.micro_batch, "image"), (split.accumulation, "accumulation step")
    product = " x ".join(counted(number, noun) for number, noun in parts)
    return f"global batch {split.global_batch} = {product}; lr {lr} is for the global batch"


def warn_of_few_images(split: BatchSplit, config: Config) -> str | None:
    """Return a warning with better numbers if the batch norms see too few images at a time, or None."""
    sync_bn, max_micro_batch = config.execution.sync_bn, config.train.max_micro_batch
    seen = split.micro_batch * (split.world_size if sync_bn else 1)
    if seen >= _FEWEST_IMAGES:
        return None
    choices = []
    if fitting := [size for size in _divisors(split.local_batch) if size >= _FEWEST_IMAGES]:
        choices.append(f"train.max_micro_batch={' or '.join(map(str, fitting))}")
    near = range(max(1, split.local_batch - _FEWEST_IMAGES), split.local_batch + _FEWEST_IMAGES + 1)
    batches = [size * split.world_size for size in near if _divisors(size, max_micro_batch)[-1] >= _FEWEST_IMAGES]
    if batches:
        choices.append(f"train.global_batch={_nearest(batches, split.global_batch)}")
    if not sync_bn and split.micro_batch * split.world_size >= _FEWEST_IMAGES:
        choices.append("execution.sync_bn=true")
    divisors = ", ".join(map(str, _divisors(split.local_batch)))
    advice = ", or ".join(choices) or "a larger global batch"
    return (
        f"warning: the batch norms see {counted(seen, 'image')} at a time, too few for a mean "
        f"and a variance: the {split.local_batch} images of a process are divided into equal parts (divisors: "
        f"{divisors}) of at most train.max_micro_batch={max_micro_batch}; choose {advice}"
    )


def _divisors(number: int, largest: int | None = None) -> list[int]:
    """Return the divisors up to `largest`, in order."""
    return [size for size in range(1, min(number, largest or number) + 1) if number % size == 0]


def _nearest(fitting: list[int], wanted: int) -> str:
    """Name the closest numbers below and above."""
    below = [number for number in fitting if number < wanted][-1:]
    above = [number for number in fitting if number > wanted][:1]
    return " or ".join(map(str, below + above))
