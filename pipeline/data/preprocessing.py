"""The preprocessing that a network expects; weight files carry it in their metadata. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Literal, cast, get_args

from pipeline.ground.errors import UserError
from pipeline.networks.registry import MaxPool

Resize = Literal["bilinear_antialias", "bilinear", "bicubic_antialias"]
"""Resizing kernels: two of PIL's, and that of OpenCV and Caffe, which reads 2x2 pixels only."""

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)
_KEYS = ("mean", "std", "resize", "max_pool")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of the images that a network was trained on, and the max-pool that its weights expect."""

    mean: Triple
    """Mean to subtract; RGB, on the 0 to 255 scale."""
    std: Triple
    """Standard deviation to divide by; RGB, on the 0 to 255 scale."""
    resize: Resize
    max_pool: MaxPool = "ceil"

    def metadata(self) -> dict[str, str]:
        """Entries for the header of a weight file."""
        return {
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "resize": self.resize,
            "max_pool": self.max_pool,
        }

    def sentence(self) -> str:
        """Describe the preprocessing in one line."""
        mean, std = (", ".join(f"{value:g}" for value in triple) for triple in (self.mean, self.std))
        return f"RGB mean ({mean}), std ({std}) of 255; resized by {self.resize}; max-pool {self.max_pool}"


def read_preprocessing(metadata: Mapping[str, str], place: str) -> Preprocessing | None:
    """Return the preprocessing in a weight file's metadata, or None if the recipe's applies.

    Raises UserError, beginning with `place`, if an entry is missing or has no valid value.
    """
    found = [key for key in _KEYS if key in metadata]
    if not found:
        return None
    if missing := [key for key in _KEYS if key not in metadata]:
        raise UserError(f"{place}: metadata has {', '.join(found)}, and not {', '.join(missing)}; all four go together")
    for key, allowed in (("resize", get_args(Resize)), ("max_pool", get_args(MaxPool))):
        if metadata[key] not in allowed:
            raise UserError(f"{place}: metadata {key}: must be one of {', '.join(allowed)} (given {metadata[key]})")
    std = _triple(metadata, "std", place)
    if min(std) <= 0:
        raise UserError(f"{place}: metadata std: must be positive (given {metadata['std']})")
    return Preprocessing(
        _triple(metadata, "mean", place),
        std,
        cast(Resize, metadata["resize"]),
        cast(MaxPool, metadata["max_pool"]),
    )


def _triple(metadata: Mapping[str, str], key: str, place: str) -> Triple:
    try:
        red, green, blue = map(float, json.loads(metadata[key]))
    except (ValueError, TypeError, RecursionError):
        red = green = blue = math.nan
    if not all(map(math.isfinite, (red, green, blue))):
        raise UserError(f"{place}: metadata {key}: must be a list of three numbers (given {metadata[key][:80]})")
    return red, green, blue
