"""Building blocks of a recipe's sections: strict, frozen models, the kinds of their fields, and the numbers in them."""

from __future__ import annotations

import enum
import os
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Kind(enum.Enum):
    """How a field relates to results. Constant: no field's kind depends on another field's value."""

    RESULT = "result"
    """A result depends on it. The default."""
    OPERATION = "operation"
    """Only how, where or how fast something is done depends on it."""
    CHECK = "check"
    """A claim that is compared with the facts."""


OPERATION, CHECK = Kind.OPERATION, Kind.CHECK
"""Markers for `Annotated`. The path of a file is an operation; a stage declares the file, whose content is a result."""


def as_tuple(value: object) -> object:
    """Convert a YAML list to the tuple that a frozen section holds."""
    return tuple(value) if isinstance(value, list) else value


def as_names(value: object) -> object:
    """Convert one name, or none, to a tuple of names."""
    return () if value is None else (value,) if isinstance(value, str) else value


def expanded(value: object) -> object:
    """Return a path with `~` and `$HOME`, or any other variable that is set, replaced."""
    if isinstance(value, tuple | list):
        return tuple(map(expanded, value))
    return os.path.expandvars(os.path.expanduser(value)) if isinstance(value, str) else value


class Section(BaseModel):
    """A part of the recipe: strict types, finite numbers, no unknown keys, frozen."""

    is_value: ClassVar[bool] = False
    """Whether it is one value, as a crop plan, and not a part of the recipe with keys of its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


IS_PATH = BeforeValidator(expanded)
"""Marker for `Annotated`: the text is a path, or there are several."""
PositiveInt = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Triple = Annotated[tuple[float, float, float], BeforeValidator(as_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
