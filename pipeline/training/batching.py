"""How the global batch becomes the micro-batches of the processes. Never imports torch."""

from __future__ import annotations

import dataclasses

from pipeline.ground.errors import UserError


@dataclasses.dataclass(frozen=True)
class BatchSplit:
    """world_size x micro_batch x accumulation = the global batch."""

    world_size: int
    local_batch: int
    """Images that one process sees in an optimizer step."""
    micro_batch: int
    """Images that one process takes through the network at once."""
    accumulation: int
    """Micro-batches whose gradients one optimizer step adds up."""

    @property
    def global_batch(self) -> int:
        """Images per optimizer step over all processes."""
        return self.world_size * self.local_batch


def split_batch(global_batch: int, world_size: int, max_micro_batch: int) -> BatchSplit:
    """The split with the largest micro-batch that is at most `max_micro_batch`, all micro-batches being equal.

    UserError where the processes cannot share the global batch equally; it names the nearest numbers that fit.
    """
    local_batch, rest = divmod(global_batch, world_size)
    if rest:
        processes = [size for size in range(1, global_batch + 1) if global_batch % size == 0]
        batches = [size for size in (global_batch - rest, global_batch - rest + world_size) if size > 0]
        raise UserError(
            f"train.global_batch: {global_batch} images cannot be shared equally by {world_size} processes "
            f"({global_batch} / {world_size} = {global_batch / world_size:g}); use {_nearest(processes, world_size)} "
            f"processes, or a global batch of {_nearest(batches, global_batch)}"
        )
    micro_batch = max(size for size in range(1, min(local_batch, max_micro_batch) + 1) if local_batch % size == 0)
    return BatchSplit(world_size, local_batch, micro_batch, local_batch // micro_batch)


def describe_batch(split: BatchSplit, lr: float) -> str:
    """How the global batch is made up, and which batch the learning rate is for."""
    processes = "1 process" if split.world_size == 1 else f"{split.world_size} processes"
    images = "1 image" if split.micro_batch == 1 else f"{split.micro_batch} images"
    steps = "1 accumulation step" if split.accumulation == 1 else f"{split.accumulation} accumulation steps"
    return f"global batch {split.global_batch} = {processes} x {images} x {steps}; lr {lr} is for the global batch"


def _nearest(fitting: list[int], wanted: int) -> str:
    """The closest numbers below and above."""
    below = [number for number in fitting if number < wanted][-1:]
    above = [number for number in fitting if number > wanted][:1]
    return " or ".join(map(str, below + above))
