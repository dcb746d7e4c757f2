"""Split the global batch into the micro-batches of the processes. Imports no torch."""

from __future__ import annotations

import dataclasses

from pipeline.ground.errors import UserError


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
        processes = [size for size in range(1, global_batch + 1) if global_batch % size == 0]
        batches = [size for size in (global_batch - rest, global_batch - rest + world_size) if size]
        raise UserError(
            f"train.global_batch: {global_batch} images cannot be shared equally by {world_size} processes "
            f"({global_batch} / {world_size} = {global_batch / world_size:g}); use {_nearest(processes, world_size)} "
            f"processes, or a global batch of {_nearest(batches, global_batch)}"
        )
    micro_batch = max(size for size in range(1, min(local_batch, max_micro_batch) + 1) if local_batch % size == 0)
    return BatchSplit(world_size, local_batch, micro_batch, local_batch // micro_batch)


def describe_batch(split: BatchSplit, lr: float) -> str:
    """Describe the parts of the global batch, and the batch that the learning rate is for."""
    processes = "1 process" if split.world_size == 1 else f"{split.world_size} processes"
    images = "1 image" if split.micro_batch == 1 else f"{split.micro_batch} images"
    steps = "1 accumulation step" if split.accumulation == 1 else f"{split.accumulation} accumulation steps"
    return f"global batch {split.global_batch} = {processes} x {images} x {steps}; lr {lr} is for the global batch"


def _nearest(fitting: list[int], wanted: int) -> str:
    """Name the closest numbers below and above."""
    below = [number for number in fitting if number < wanted][-1:]
    above = [number for number in fitting if number > wanted][:1]
    return " or ".join(map(str, below + above))
