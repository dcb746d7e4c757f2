"""The tensor names of Cadene's `pretrainedmodels` and timm's `legacy_senet154`, which are also this project's own."""

from __future__ import annotations

from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TELLING = "layer0.conv1.weight"
"""A tensor that only files of this layout have."""

PREPROCESSING = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear_antialias")


def to_ours(name: str) -> str:
    """Return our name of a tensor. Cadene's first upload called the classifier `fc`."""
    return f"last_linear.{name.removeprefix('fc.')}" if name.startswith("fc.") else name


def to_theirs(name: str) -> str:
    """Return their name of a tensor."""
    return name
