"""The rank of this process and the world size. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The rank of this process, globally and on its node."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    """Number of processes of the stage."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def read_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return the ranks set by the launcher: torchrun's variables, SLURM's (one task per GPU), or a single process.

    torchrun's come first, since an interactive SLURM shell that starts torchrun has both.
    """
    for rank, local_rank, world_size in (
        ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
    ):
        if world_size in environment:
            return Ranks(int(environment[rank]), int(environment[local_rank]), int(environment[world_size]))
    return Ranks()
