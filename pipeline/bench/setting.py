"""The recipe of benchmarks: SENet-154's own augmentation and batches, with the network and sizes in question."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import Config


def bench_config(
    *,
    model: str = "senet_nano",
    num_classes: int = 1000,
    batch: int = 32,
    image_size_px: int = 224,
    threads: int = 2,
    **sections: Any,
) -> Config:
    """Return a complete config in which one step is one batch; everything else has its default.

    `sections` are further sections, or further keys of those that are here.
    """
    own: dict[str, Any] = {
        "name": "bench",
        "data": {"dataset": "folder", "root": "."},
        "model": {"name": model, "num_classes": num_classes},
        "optim": {"lr": 0.05},
        "schedule": {"kind": "cosine"},
        "train": {"epochs": 1, "global_batch": batch, "max_micro_batch": batch, "image_size_px": image_size_px},
        "loader": {"threads": threads},
    }
    for name, value in sections.items():
        own[name] = {**own[name], **value} if name in own else value
    return Config.model_validate(own)
