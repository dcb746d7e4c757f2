"""The network, its squeeze-and-excitation block, and the recipe's claims about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from pipeline.config.section import CHECK, IS_PATH, OPERATION, PositiveFloat, PositiveInt, Section, as_tuple
from pipeline.ground.errors import UserError
from pipeline.networks.registry import NETWORKS, Integration, SEBlock, block_of, network_problem, spelled
from pipeline.paper.tables import Row

if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[tuple(NETWORKS)]

_IMAGENET_CLASSES = 1000


class SEConfig(Section):
    """The squeeze-and-excitation block of a network; the defaults are the paper's."""

    is_value: ClassVar[bool] = True

    reduction: PositiveInt = 16
    """The paper's r: channels by those between the block's two layers, rounded down."""
    squeeze: Literal["average", "max", "none"] = "average"
    """Pooling over the whole map; none: the two layers see every position, and each has gates of its own (NoSqueeze,
    Table 16)."""
    excitation: Literal["sigmoid", "tanh", "relu"] = "sigmoid"
    """Function that the gates end with (Table 12)."""
    integration: Integration = "standard"
    """Place in a residual block (Tables 14 and 15). standard: on the branch, before the sum. pre: on the branch's
    input. post: after the sum and its ReLU. identity: on the shortcut. 3x3: behind the 3x3 convolution."""
    stages: Annotated[tuple[PositiveInt, ...] | None, BeforeValidator(as_tuple)] = None
    """Stages with blocks, in the paper's numbers: 2 is conv2_x (Table 13). null: all."""
    bias: bool = True
    """Whether the two layers have biases; those of the paper's ablations have none."""

    @property
    def block(self) -> SEBlock:
        """The block, for the network."""
        return SEBlock(**self.model_dump())


class ModelExpectation(Section):
    """Claims of the recipe about the network; `build` ends the run if one is false."""

    parameters: PositiveInt
    """Number of its parameters."""
    gmacs: PositiveFloat
    """Multiply-adds of convolutions and the classifier for one image of `image_size_px`, in 1e9."""
    image_size_px: Annotated[PositiveInt, Field(ge=3)] | None = None
    """Side of that image; null: the network's own image size."""
    layer_table: bool = False
    """Whether every layer must agree with the authors' table of the contest's network."""


class ModelConfig(Section):
    """The network."""

    name: NetworkName
    """Network by name, with the paper's block or without: `launch networks` lists them."""
    num_classes: PositiveInt | None
    """Outputs of the classifier. null: as many as there are classes of training images, which `build` then counts."""
    se: SEConfig | Literal["default"] | None = "default"
    """The squeeze-and-excitation block. default: as the name says, the paper's or none. null: none. Keys below it
    describe another, and the network is called by the name of the one with a block."""
    stride_in_3x3: bool = False
    """Whether blocks with the stride in their first 1x1 convolution, as the authors have it, have it in the 3x3
    convolution instead, as torchvision's."""
    weights: Annotated[str | None, OPERATION, IS_PATH] = None
    """Weights to begin with instead of random ones: a file, a run, the directory of a stage or of a checkpoint, or
    `RUN/best`. A classifier of another size is made anew; all else must fit."""
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None
    """Share of the last features that is dropped at random in training, before the classifier. null: the network's
    own."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest batch in the running statistics (PyTorch's convention)."""
    expect: Annotated[ModelExpectation | None, CHECK] = None
    """What the network must be; null: nothing is claimed."""

    @model_validator(mode="after")
    def _has_one_spelling(self) -> Self:
        """Resolve the name, so that the same network has the same identity however it was written."""
        name, se = spelled(self.name, self.block)
        if problem := network_problem(name, se, stride_in_3x3=self.stride_in_3x3):
            raise ValueError(problem)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "se", SEConfig(**vars(se)) if isinstance(se, SEBlock) else se)
        if self.dropout == NETWORKS[name].dropout:
            object.__setattr__(self, "dropout", None)
        return self

    @property
    def reckoned_classes(self) -> int:
        """Number of classes for estimates: ImageNet's 1000 until the images have been counted."""
        return self.num_classes or _IMAGENET_CLASSES

    @property
    def title(self) -> str:
        """The name, and in brackets what it does not say."""
        unsaid = []
        if isinstance(self.se, SEConfig):
            changes = self.se.model_dump(exclude_defaults=True)
            unsaid = [f"{key} {json.dumps(value).strip(chr(34))}" for key, value in changes.items()]
        elif self.se is None:
            unsaid = ["no block"]
        if self.stride_in_3x3:
            unsaid.append("stride in the 3x3")
        return f"{self.name} ({', '.join(unsaid)})" if unsaid else self.name

    @property
    def block(self) -> SEBlock | None:
        """The squeeze-and-excitation block, or None."""
        return self.se.block if isinstance(self.se, SEConfig) else block_of(self.name, self.se)

    @property
    def dropped_share(self) -> float:
        """Share of the last features that is dropped."""
        return NETWORKS[self.name].dropout if self.dropout is None else self.dropout

    def overrides_to(self, other: ModelConfig) -> list[str]:
        """Return the overrides that make this network another, as far as a weight file can tell them apart."""
        ours, theirs = self.told_by_weights(), other.told_by_weights()
        return [f"model.{key}={value}" for key, value in theirs.items() if value != ours[key]]

    def told_by_weights(self) -> dict[str, str]:
        """Return the keys of the section that a weight file can tell, and their values."""
        metadata = self.metadata()
        stride, block = metadata.get("stride_in_3x3", "false"), metadata.get("se", "default")
        return {"name": self.name, "stride_in_3x3": stride, "se": block}

    @classmethod
    def of_row(cls, row: Row) -> Self:
        """Return the network of a row of the paper that is ours, with ImageNet's number of classes."""
        return cls.model_validate({"name": row.model, "num_classes": _IMAGENET_CLASSES, "se": row.block})

    @classmethod
    def described(cls, metadata: Mapping[str, str], num_classes: int, place: str) -> Self:
        """Return the network that `metadata` describes in a weight file. Raises UserError if there is none."""
        try:
            return cls(
                name=metadata["model"],
                num_classes=num_classes,
                se=json.loads(metadata.get("se", '"default"')),
                stride_in_3x3="stride_in_3x3" in metadata,
            )
        except ValueError as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UserError(f"{place}: metadata describes no network of this version: {said}") from error

    def metadata(self) -> dict[str, str]:
        """Return the entries for the header of a weight file: what must be known to build the network."""
        entries = {"model": self.name}
        if self.se != "default":
            block = None if self.se is None else self.se.model_dump(mode="json", exclude_defaults=True)
            entries["se"] = json.dumps(block)
        return entries | ({"stride_in_3x3": "true"} if self.stride_in_3x3 else {})
