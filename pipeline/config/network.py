"""The network and the recipe's claims about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.config.section import CHECK, Fraction, PositiveFloat, PositiveInt, Section
from pipeline.networks.spec import SPECS

if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[tuple(SPECS)]


class ModelExpectation(Section):
    """Claims of the recipe about the network; `build` ends the run if one is false."""

    parameters: PositiveInt
    gmacs: PositiveFloat
    """Multiply-adds of convolutions and the classifier for one image of `image_size_px`, in 1e9."""
    image_size_px: Annotated[PositiveInt, Field(ge=3)] | None = None
    """Side of that image; null: the network's own image size."""
    layer_table: bool = False
    """Whether every layer must agree with the authors' table of SENet-154."""


class ModelConfig(Section):
    """The network."""

    name: NetworkName
    num_classes: PositiveInt
    dropout: Fraction = 0.2
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics (PyTorch's convention)."""
    expect: Annotated[ModelExpectation | None, CHECK] = None
