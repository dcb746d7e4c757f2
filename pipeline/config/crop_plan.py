"""Crop plans: the crops of an image that the network sees in evaluation, and how its answers are averaged.

A plan is data: crops, each of which is a scale of the image, squares of it, positions in these, and mirror images. The
built-in plans are the files of the folder `crops` beside this module; a user's own look the same.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.document import decode_document
from pipeline.config.section import PositiveFloat, PositiveInt, Section, as_tuple

Square = Literal["first", "middle", "last"]
"""Left, central and right square of a landscape; top, central and bottom one of a portrait."""
Position = Literal["center", "top_left", "top_right", "bottom_left", "bottom_right", "whole"]
Pooling = Literal["global", "sliding"]
Averaging = Literal["probabilities", "logits"]

_CENTER = re.compile(r"center([1-9]\d{1,3})")
_PLAN_FOLDER = Path(__file__).with_name("crops")


class CropGroup(Section):
    """Crops from an image whose shorter side was resized to `resize_px`, or the whole image (`dense`)."""

    resize_px: PositiveInt
    """The scale: length of the image's shorter side."""
    crop_px: PositiveInt | None = None
    """Side of the crops; left out if `dense` is given."""
    squares: Annotated[tuple[Square, ...], BeforeValidator(as_tuple)] = ()
    """Squares as large as the shorter side, in which the positions are taken: first (left or top), middle, last (right
    or bottom). Empty: the positions are those of the whole image."""
    positions: Annotated[tuple[Position, ...], BeforeValidator(as_tuple)] = ("center",)
    """Positions of the crops. whole: the square itself, resized to `crop_px`."""
    pooling: Pooling = "global"
    """How the last map of a crop becomes one answer. global: it is averaged as a whole. sliding: as with `dense`."""
    dense: Pooling | None = None
    """The whole image passes the network as a fully convolutional one. global: its last map is averaged as a whole;
    sliding: the classifier answers for each window of 7 x 7 of it, and these logits are averaged."""
    mirror: bool = False
    """Whether each crop is also evaluated mirrored."""
    weight: PositiveFloat = 1.0
    """Weight of each of the group's crops in the average."""

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        if self.dense is not None:
            if (self.crop_px, self.squares, self.positions, self.pooling) != (None, (), ("center",), "global"):
                raise ValueError("dense: sees the whole image; leave out crop_px, squares, positions and pooling")
            return self
        if self.crop_px is None:
            raise ValueError("crop_px: must be given, or dense")
        if self.crop_px > self.resize_px:
            raise ValueError(
                f"crop_px: must not exceed resize_px (given crop_px {self.crop_px}, resize_px {self.resize_px})"
            )
        if len(set(self.squares)) != len(self.squares):
            raise ValueError(f"squares: each once (given {list(self.squares)})")
        if not self.positions or len(set(self.positions)) != len(self.positions):
            raise ValueError(f"positions: at least one, each once (given {list(self.positions)})")
        if "whole" in self.positions and not self.squares:
            raise ValueError("positions: 'whole' is a whole square; say which in squares")
        return self

    def places(self) -> tuple[tuple[Square | None, Position | None], ...]:
        """Return each crop's square and position, in the plan's order; a dense group is one "crop" with neither."""
        if self.dense is not None:
            return ((None, None),)
        return tuple((square, position) for square in self.squares or (None,) for position in self.positions)


class CropPlan(Section):
    """Crops of an image and how the answers for them are averaged."""

    is_value = True

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Names the plan in tables, and its files of scores."""
    averaging: Averaging = "probabilities"
    """Average softmax probabilities, or logits (the geometric mean of the probabilities)."""
    crops: Annotated[tuple[CropGroup, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """Groups of crops, all of which are averaged."""

    @property
    def center_crop(self) -> tuple[int, int] | None:
        """Shorter side and crop of one unmirrored crop from the centre, or None for any other plan."""
        group = self.crops[0]
        is_central = self.is_one_crop and group.positions == ("center",) and not group.squares
        return (group.resize_px, group.crop_px) if group.crop_px is not None and is_central else None

    @property
    def is_one_crop(self) -> bool:
        """Whether it is one crop of each image, not mirrored."""
        group = self.crops[0]
        return len(self.crops) == len(group.places()) == 1 and group.dense is None and not group.mirror

    @model_validator(mode="after")
    def _no_crop_twice(self) -> Self:
        seen: dict[object, str] = {}
        for number, group in enumerate(self.crops):
            for square, position in group.places():
                # All positions in a square are the same if the crop is as large as it.
                place = "whole" if square is not None and group.crop_px == group.resize_px else position
                crop = (group.resize_px, group.crop_px, square, place, group.dense, group.pooling)
                shown = " ".join(part for part in (square, position) if part) or "dense"
                if crop in seen:
                    raise ValueError(
                        f"crops[{number}]: no crop twice ({shown}, {group.crop_px or 'all'} of {group.resize_px} px, "
                        f"is the same as {seen[crop]})"
                    )
                seen[crop] = f"{shown} of crops[{number}]"
        return self


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in plans."""
    return tuple(sorted(file.stem for file in _PLAN_FOLDER.glob("*.yaml")))


def plan_of(name: str) -> CropPlan:
    """Return the built-in plan of that name, or for `center64` and the like one crop of that many pixels a side.

    Such a crop is the middle of an image resized to 256/224 of it, as center224's. Raises ValueError for other names.
    """
    if name in builtin_names():
        return builtin_plan(name)
    if match := _CENTER.fullmatch(name):
        crop_px = int(match[1])
        return CropPlan(name=name, crops=(CropGroup(resize_px=round(crop_px * 256 / 224), crop_px=crop_px),))
    raise ValueError(
        f"no built-in crop plan '{name}' (there are: {', '.join(builtin_names())}; for other sizes center64 and the "
        "like)"
    )


@functools.cache
def builtin_plan(name: str) -> CropPlan:
    """Return the built-in plan of that name, which must be one of `builtin_names`."""
    file = _PLAN_FOLDER / f"{name}.yaml"
    document = decode_document(file.read_bytes(), file.name)
    assert not document.problems, document.problems
    return CropPlan.model_validate(document.root.plain())


def _by_name(plan: Any) -> Any:
    """Return the plan of that name; values other than strings unchanged."""
    return plan_of(plan) if isinstance(plan, str) else plan


Plan = Annotated[CropPlan, BeforeValidator(_by_name)]
"""A crop plan: written out, or the name of a built-in one, resolved when the recipe is read."""
