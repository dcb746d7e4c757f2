"""Weights through timm, where it is installed: from its cache, or from the network."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, cast

from torch import nn

from pipeline.data.preprocessing import Preprocessing, Resize, Triple
from pipeline.ground.errors import UserError

SCHEME = "timm:"
_KERNELS: dict[str, Resize] = {"bilinear": "bilinear_antialias", "bicubic": "bicubic_antialias"}


def load_timm(name: str) -> tuple[nn.Module, Preprocessing, str]:
    """Return timm's network, timm's own preprocessing but for the max-pool, and what to call the source.

    Raises UserError if timm is not installed, or does not know or get the weights.
    """
    place = f"{SCHEME}{name}"
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"{place}: needs timm: pip install timm")
    timm: Any = importlib.import_module("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"{place}: timm {timm.__version__} has no such network; one that fits is legacy_senet154")
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # of its cache, of several network libraries
        raise UserError(f"{place}: timm could not get the weights ({type(error).__name__}: {error})") from error
    told = model.pretrained_cfg
    kernel = _KERNELS.get(told["interpolation"])
    if kernel is None:
        raise UserError(f"{place}: resizes images by {told['interpolation']}; known are {', '.join(_KERNELS)}")
    mean, std = (cast(Triple, tuple(round(255 * value, 6) for value in told[key])) for key in ("mean", "std"))
    tag = f".{told['tag']}" if told.get("tag") else ""
    source = f"timm {timm.__version__}, {told.get('architecture', name)}{tag}"
    return model, Preprocessing(mean, std, kernel), source
