"""The processes that a checkpoint was trained by: what its last bits depend on beside the config."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.distributed import Collective
from pipeline.errors import UserError
from pipeline.training.batching import BatchSplit


def describe_processes(collective: Collective, split: BatchSplit) -> dict[str, Any]:
    """What the last bits of a result depend on beside the config, and (micro_batch) what the batch norms saw."""
    return {
        "world_size": split.world_size,
        "micro_batch": split.micro_batch,
        "device": collective.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def compare_processes(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What to tell about going on with other processes than the checkpoint was written by; None where all is equal.

    UserError where the result would be another one: the batch norms would see batches of another size.
    """
    if saved["micro_batch"] != now["micro_batch"]:
        raise UserError(
            f"the checkpoint was trained with {saved['micro_batch']} images per forward pass "
            f"({saved['world_size']} processes), now it would be {now['micro_batch']} ({now['world_size']} processes), "
            "and the batch norms would see other batches; choose a number of processes or train.max_micro_batch that "
            f"gives {saved['micro_batch']} again"
        )
    changed = [f"{name} {saved[name]} -> {now[name]}" for name in now if saved[name] != now[name]]
    if not changed:
        return None
    return (
        f"going on with {', '.join(changed)}: the images and their order stay exactly the same, "
        "the last bits of the weights need not"
    )
