"""The names of Cadene's `pretrainedmodels` and of timm's `legacy_senet154`, which are also this project's own."""

from __future__ import annotations

from pipeline.interop.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TELLING = "layer0.conv1.weight"
"""A tensor that files of this layout have and others do not."""

PREPROCESSING = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear_antialias")


def to_ours(name: str) -> str:
    """Our name of a tensor; Cadene's first upload called the classifier `fc`."""
    return f"last_linear.{name.removeprefix('fc.')}" if name.startswith("fc.") else name


def to_theirs(name: str) -> str:
    """Their name of a tensor."""
    return name
