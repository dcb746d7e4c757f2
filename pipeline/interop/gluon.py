"""The tensor names of timm's `senet154`, whose weights `senet154.gluon_in1k` come from GluonCV's MXNet file.

Its network is timm's ResNet and differs from the authors' in the first max-pool: 1 pixel of padding, rounded down.
GluonCV's own rounds up without padding, as the authors' does, so the conversion introduced the shift.
"""

from __future__ import annotations

import re

from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TELLING = "conv1.0.weight"
NEEDED = "layer0.conv3.weight"
"""Its names are of a network with three convolutions before the first pooling."""

PREPROCESSING = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic_antialias", max_pool="padded")

_STEM = {
    "conv1.0": "layer0.conv1",
    "conv1.1": "layer0.bn1",
    "conv1.3": "layer0.conv2",
    "conv1.4": "layer0.bn2",
    "conv1.6": "layer0.conv3",
    "bn1": "layer0.bn3",
    "fc": "last_linear",
}
_THEIRS = {ours: theirs for theirs, ours in _STEM.items()}


def to_ours(name: str) -> str:
    """Return our name of a tensor; unknown names stay."""
    module, _, tensor = name.rpartition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{tensor}"
    return re.sub(r"^(layer\d+\.\d+)\.se\.", r"\1.se_module.", name)


def to_theirs(name: str) -> str:
    """Return their name of a tensor of ours."""
    module, _, tensor = name.rpartition(".")
    if module in _THEIRS:
        return f"{_THEIRS[module]}.{tensor}"
    return name.replace(".se_module.", ".se.")
