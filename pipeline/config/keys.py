"""The dotted names of all keys of a schema, and suggestions for unknown ones.

The schema is the recipe's unless another one is given.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.crop_plan import CropPlan
from pipeline.config.schema import Config
from pipeline.config.section import Section
from pipeline.config.synonyms import answer_for

_SIMILAR = 0.7
_MOVED = {
    "data.mean": ("moved to input.mean in 0.2", None),
    "data.std": ("moved to input.std in 0.2", None),
    "freeze_bn.last_epochs": ("moved to train.frozen_epochs in 0.2", None),
    "apex.nhwc_batch_norm": ("gone in 0.2", None),
    "apex.fused_sgd": ("gone in 0.2, always true", None),
    "loader.prefetch": ("loader.prefetch_images since 0.3, in images, not in micro-batches", None),
    "views": ("named 'crops' since 0.2", "crops"),
}
"""Keys of earlier versions that the schema no longer has, and their replacements in a section."""


@functools.cache
def all_keys(schema: type[Section] = Config) -> tuple[str, ...]:
    """Return every key in the schema's order, sections included: `name`, `seed`, `data`, `data.dataset` ...

    The fields of a crop plan are left out: it has no fixed place in a recipe.
    """
    keys = []
    for name, field in schema.model_fields.items():
        keys.append(name)
        inner = inner_section(field.annotation)
        if inner is not None and inner is not CropPlan:
            keys += [f"{name}.{key}" for key in all_keys(inner)]
    return tuple(keys)


def inner_section(annotation: Any) -> type[Section] | None:
    """Return the section that values of this type are or contain, or None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (inner_section(argument) for argument in typing.get_args(annotation))
    return next((section for section in inner if section is not None), None)


def section_at(path: Sequence[int | str], schema: type[Section] = Config) -> type[Section] | None:
    """Return the section that the values at the path (names, and numbers of list items) are or contain, or None."""
    section: type[Section] | None = schema
    for name in path:
        if section is not None and isinstance(name, str):
            field = section.model_fields.get(name)
            section = None if field is None else inner_section(field.annotation)
    return section


def field_at(path: Sequence[int | str], schema: type[Section] = Config) -> FieldInfo | None:
    """Return the field at the path, or whose item is there, or None if the schema has none."""
    names = [name for name in path if isinstance(name, str)]
    section = section_at(names[:-1], schema)
    return section.model_fields.get(names[-1]) if section is not None and names else None


def expectation(annotation: Any) -> str:
    """Describe the values of a type: "a whole number", "a list of 3 numbers"."""
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if annotation in plain:
        return plain[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return expectation(arguments[0])
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        variable = arguments[-1] is Ellipsis
        return f"a list, each item {expectation(arguments[0])}" if variable else f"a list of {len(arguments)} numbers"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(expectation, arguments))
    named = "a name or " if annotation is CropPlan else ""
    return f"{named}a section with the keys {', '.join(annotation.model_fields)}"


def explain_unknown(path: Sequence[int | str], schema: type[Section]) -> tuple[str, str | None]:
    """Explain that there is no key at `path`. Returns the key of the same section that was probably meant, or None,
    too."""
    *above, name = [part for part in path if isinstance(part, str)]
    section = section_at(above, schema)
    assert section is not None, path
    for key, (moved, meant) in _MOVED.items():
        # In full in a file; an override may name it by its end.
        if f".{'.'.join(above)}.{name}".endswith(f".{key}") or (key.endswith(f".{name}") and not above):
            return f"unknown key ({moved})", meant
    if (answer := answer_for(name)) is not None and name not in section.model_fields:
        return f"unknown key: {answer}", None
    if ":" in name:
        return f"unknown key (a colon needs a space behind it: {name.replace(':', ': ', 1)})", None
    homes: dict[str, list[str]] = {}
    for key in all_keys(schema):
        home, _, last = key.rpartition(".")
        homes.setdefault(last, []).append(home or "the top level")
    if name in homes:
        return f"unknown key here (it belongs to {' or '.join(homes[name])})", None
    own = list(section.model_fields)
    known = [*own, *({"extends", "sweep"} - {name})] if section is Config else own
    for close in get_close_matches(name, known, n=1, cutoff=_SIMILAR):
        return f"unknown key (did you mean '{close}'?)", close if close in own else None
    for close in get_close_matches(name, homes, n=1, cutoff=_SIMILAR):
        return f"unknown key (did you mean '{close}'? It belongs to {' or '.join(homes[close])})", None
    return f"unknown key (there are: {', '.join(own)})", None


def resolve_short_key(given: str) -> str:
    """Return the full name of a key given by its end (`processes`); unknown names unchanged.

    Raises ValueError if several keys end so, or one does that may well not be meant: `batch`.
    """
    endings = [key for key in all_keys() if key.endswith(f".{given}")]
    if given in all_keys() or not endings:
        return given
    if (answer := answer_for(given)) is not None:
        raise ValueError(f"may mean several keys: {answer}")
    if len(endings) > 1:
        raise ValueError(f"ambiguous key (it may be {' or '.join(endings)})")
    return endings[0]
