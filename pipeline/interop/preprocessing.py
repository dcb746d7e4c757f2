"""What must be done to an image before it is shown to a network; it travels in the weight file's metadata.

Never imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Literal, cast, get_args

from pipeline.ground.errors import UserError
from pipeline.networks.spec import MaxPool

Resize = Literal["bilinear_antialias", "bilinear", "bicubic_antialias"]
"""How images are made smaller: PIL's two kernels, and the one of OpenCV and Caffe, which looks at 2x2 pixels only."""

Triple = tuple[float, float, float]

_KEYS = ("mean", "std", "resize", "max_pool")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network was trained to be shown, and the pooling that goes with it."""

    mean: Triple
    """RGB, on the 0 to 255 scale; it is subtracted."""
    std: Triple
    """RGB, on the 0 to 255 scale; it is divided by."""
    resize: Resize
    max_pool: MaxPool = "ceil"

    def metadata(self) -> dict[str, str]:
        """For the header of a weight file."""
        return {
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "resize": self.resize,
            "max_pool": self.max_pool,
        }

    def sentence(self) -> str:
        """For people."""
        mean, std = (", ".join(f"{value:g}" for value in triple) for triple in (self.mean, self.std))
        return f"RGB mean ({mean}), std ({std}) of 255; resized by {self.resize}; max-pool {self.max_pool}"


IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)


def read_preprocessing(metadata: Mapping[str, str], place: str) -> Preprocessing | None:
    """What a weight file's metadata says, or None where it says nothing: the recipe's own then applies.

    UserError that begins with `place` where it says a part only, or what no preprocessing can be.
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
