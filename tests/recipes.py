"""A recipe small enough to be run many times in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.schema import Config

_CROP = {"resize_px": 32, "crop_px": 32}
_SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 11,
    "data": {"dataset": "folder"},
    "model": {"name": "senet_nano", "num_classes": 4},
    "optim": {"lr": 0.05},
    "schedule": {"kind": "step", "drop_epochs": [3.0], "warmup_epochs": 1.0},
    "train": {
        "epochs": 6,
        "frozen_epochs": 2,
        "global_batch": 24,
        "max_micro_batch": 6,
        "image_size_px": 32,
        "validation": {"name": "center32", "crops": [_CROP]},
    },
    "augmentation": {"pixel_jitter": 8.0, "rotation_degrees": 5.0},
    "evaluate": {"plans": [{"name": "center32", "crops": [_CROP]}], "batch": 8},
    "tracking": {"wandb": "disabled", "log_every_steps": 3},
    "checkpoint": {"every_steps": 4},
}


def small_recipe(root: Path, **sections: Any) -> Config:
    """The recipe on the images below `root`, with keys of its sections replaced."""
    merged = {
        name: value | sections.pop(name, {}) if isinstance(value, dict) else value for name, value in _SMALL.items()
    }
    merged.update(sections)
    merged["data"] = {**merged["data"], "root": str(root)}
    return Config.model_validate(merged)
