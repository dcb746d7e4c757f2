"""The network and what the recipe claims about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.section import Fraction, PositiveFloat, PositiveInt, Section


class ModelExpectation(Section):
    """What the recipe claims about the network; `build` stops the run where it is not so."""

    parameters: PositiveInt
    gmacs: PositiveFloat
    """Multiply-adds of convolutions and the classifier for one image of train.image_size_px, in 1e9."""
    layer_table: bool = False
    """Whether every layer must agree with the authors' table of SENet-154."""


class ModelConfig(Section):
    """The network."""

    name: Literal["senet154", "senet_nano"]
    num_classes: PositiveInt
    dropout: Fraction = 0.2
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics (PyTorch's convention)."""
    expect: ModelExpectation | None = None
