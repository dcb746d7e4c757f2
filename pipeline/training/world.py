"""The processes and the engine that trained a checkpoint, and whether others may go on from it."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.config.schema import Config
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.training.batching import BatchSplit


def describe_processes(config: Config, collective: Collective, split: BatchSplit) -> dict[str, Any]:
    """What the last bits of a result depend on beside the stage's key, and (bn_batch) what the batch norms saw.

    They saw their own process's images, or with sync_bn those of all processes.
    """
    return {
        "engine": config.engine_in_words,
        "world_size": split.world_size,
        "micro_batch": split.micro_batch,
        "bn_batch": split.micro_batch * (split.world_size if config.execution.sync_bn else 1),
        "device": collective.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def compare_processes(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What to tell about going on with other processes than the checkpoint was written by; None where all is equal.

    UserError where the result would be another one: the batch norms would see batches of another size.
    """
    if saved["bn_batch"] != now["bn_batch"]:
        raise UserError(
            f"the checkpoint was trained with {saved['bn_batch']} images per forward pass "
            f"(processes: {saved['world_size']}), now it would be {now['bn_batch']} (processes: {now['world_size']}), "
            "and the batch norms would see other batches; choose a number of processes or train.max_micro_batch that "
            f"gives {saved['bn_batch']} again"
        )
    changed = [f"{name} {saved[name]} -> {now[name]}" for name in now if saved[name] != now[name]]
    if not changed:
        return None
    # Where a process has other images, they meet other draws of its generator.
    redrawn = saved["world_size"] != now["world_size"] or saved["micro_batch"] != now["micro_batch"]
    other = "dropout and pixel jitter are drawn anew" if redrawn else "the last bits of the weights need not"
    return f"going on with {', '.join(changed)}: the images, their order and crops stay exactly the same, {other}"
