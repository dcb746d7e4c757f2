"""The network and the recipe's claims about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.config.section import CHECK, IS_PATH, OPERATION, Fraction, PositiveFloat, PositiveInt, Section
from pipeline.networks.registry import NETWORKS

if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[tuple(NETWORKS)]

_IMAGENET_CLASSES = 1000


class ModelExpectation(Section):
    """Claims of the recipe about the network; `build` ends the run if one is false."""

    parameters: PositiveInt
    """Number of its parameters."""
    gmacs: PositiveFloat
    """Multiply-adds of convolutions and the classifier for one image of `image_size_px`, in 1e9."""
    image_size_px: Annotated[PositiveInt, Field(ge=3)] | None = None
    """Side of that image; null: the network's own image size."""
    layer_table: bool = False
    """Whether every layer must agree with the authors' table of SENet-154."""


class ModelConfig(Section):
    """The network."""

    name: NetworkName
    """senet154: the network of the paper's appendix, 115 million parameters. The others are small ones of its blocks,
    for small images."""
    num_classes: PositiveInt | None
    """Outputs of the classifier. null: as many as there are classes of training images, which `build` then counts."""
    weights: Annotated[str | None, OPERATION, IS_PATH] = None
    """Weights to begin with instead of random ones: a file, a run, the directory of a stage or of a checkpoint, or
    `RUN/best`. A classifier of another size is made anew; all else must fit."""
    dropout: Fraction = 0.2
    """Share of the last features that is dropped at random in training, before the classifier."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics (PyTorch's convention)."""
    expect: Annotated[ModelExpectation | None, CHECK] = None
    """What the network must be; null: nothing is claimed."""

    @property
    def reckoned_classes(self) -> int:
        """Number of classes for estimates: ImageNet's 1000 until the images have been counted."""
        return self.num_classes or _IMAGENET_CLASSES
