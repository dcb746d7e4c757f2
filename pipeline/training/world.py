"""Facts about a checkpoint's training beside its recipe: world size, versions, devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data.decoding import decodes_in_threads, decoding_gpu
from pipeline.data.index import ImageIndex
from pipeline.ground.distributed import Collective
from pipeline.training.batching import BatchSplit


def describe_world(config: Config, train: ImageIndex, collective: Collective, split: BatchSplit) -> dict[str, Any]:
    """Return the facts that can change the last bits of a result: engine, world size, batches, versions.

    The batch norms see the images of their own process, or with sync_bn those of all processes.
    """
    return {
        "engine": config.engine_in_words,
        "world_size": split.world_size,
        "micro_batch": split.micro_batch,
        "bn_batch": split.micro_batch * (split.world_size if config.execution.sync_bn else 1),
        "device": collective.device.type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        **({} if train.is_in_memory else _decoder(config.loader, collective.device)),
    }


def describe_change(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return one line about the change between the checkpoint's world and this one, or None if nothing has changed."""
    changed = [name for name in now if saved.get(name) != now[name]]
    if not changed:
        return None
    consequences = []
    if "world_size" in changed or "micro_batch" in changed:
        # Each process draws for its own images.
        consequences.append("dropout and pixel jitter are drawn anew")
    if "bn_batch" in changed:
        consequences.append("the batch norms see other batches")
    differences = ", ".join(f"{name} {saved.get(name, 'unknown')} -> {now[name]}" for name in changed)
    return (
        f"going on with {differences}: the images, their order and crops stay exactly the same, "
        f"{', '.join(consequences) or 'the last bits of the weights need not'}"
    )


def _decoder(loader: LoaderConfig, device: torch.device) -> dict[str, str]:
    """Return the decoding library with its version, and its device."""
    if decodes_in_threads(loader, device):
        import torchvision

        decoder = f"torchvision {torchvision.__version__}"
    else:
        import nvidia.dali

        # Not from the metadata: the distribution is called after the CUDA release it is built for.
        decoder = f"dali {nvidia.dali.__version__}"
    return {"decoder": decoder, "decode": "cpu" if decoding_gpu(loader, device) is None else "gpu"}
