"""The dotted names of all keys of a schema, and which one was meant by a name that is not among them.

The schema is the recipe's unless another one is given.
"""

from __future__ import annotations

import difflib
import functools
import types
import typing
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.schema import Config
from pipeline.config.section import Section

_SIMILAR = 0.7
_TOP_LEVEL = f"the top level has: {', '.join(Config.model_fields)}"


@functools.cache
def all_keys(schema: type[Section] = Config) -> tuple[str, ...]:
    """Every key in the schema's order, sections included: `name`, `seed`, `data`, `data.dataset` ...

    What is inside a crop plan is left out: it has no fixed place in a recipe.
    """
    return tuple(_keys_of(schema, ""))


def _keys_of(section: type[Section], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        inner = inner_section(field.annotation)
        if inner is not None and not allows(field.annotation, str):
            keys += _keys_of(inner, f"{prefix}{name}.")
    return keys


def inner_section(annotation: Any) -> type[Section] | None:
    """The section that values of this type are or contain; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (inner_section(argument) for argument in typing.get_args(annotation))
    return next((section for section in inner if section is not None), None)


def allows(annotation: Any, kind: type) -> bool:
    """Whether the type is `kind`, or a union or list in which `kind` is one of the choices."""
    return annotation is kind or any(allows(argument, kind) for argument in typing.get_args(annotation))


def field_at(path: tuple[int | str, ...], schema: type[Section] = Config) -> FieldInfo | None:
    """The field that the path (names, and numbers of list items) leads to or through last."""
    section: type[Section] | None = schema
    field = None
    for name in path:
        if isinstance(name, int):
            continue
        if section is None or name not in section.model_fields:
            return None
        field = section.model_fields[name]
        section = inner_section(field.annotation)
    return field


def expectation(annotation: Any) -> str:
    """What a value of this type is, in plain words: "a whole number", "a list of 3 numbers"."""
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if annotation in plain:
        return plain[annotation]
    section = inner_section(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return expectation(arguments[0])
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, each item {expectation(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if argument is type(None) else expectation(argument) for argument in arguments)
    assert section is not None, annotation
    return f"a section with the keys {', '.join(section.model_fields)}"


def explain_unknown(name: str, section: type[Section], schema: type[Section] = Config) -> tuple[str, str | None]:
    """What to tell about the key `name`, which `section` does not have, and the section's own key that was meant."""
    elsewhere = _keys_by_last_name(schema)
    if name in elsewhere:
        return f"unknown key here (it belongs to {_homes(elsewhere[name])})", None
    own = [*section.model_fields, "extends"] if section is Config else [*section.model_fields]
    close = difflib.get_close_matches(name, own, n=1, cutoff=_SIMILAR)
    if close:
        return f"unknown key (did you mean '{close[0]}'?)", close[0] if close[0] in section.model_fields else None
    close = difflib.get_close_matches(name, elsewhere, n=1, cutoff=_SIMILAR)
    if close:
        return f"unknown key (did you mean '{close[0]}'? It belongs to {_homes(elsewhere[close[0]])})", None
    return f"unknown key (there are: {', '.join(section.model_fields)})", None


@functools.cache
def _keys_by_last_name(schema: type[Section]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key in all_keys(schema):
        keys.setdefault(key.rpartition(".")[2], []).append(key)
    return keys


def _homes(keys: list[str]) -> str:
    return " or ".join(key.rpartition(".")[0] or "the top level" for key in keys)


def resolve_short_key(given: str) -> str:
    """The full name of a key given in full or by its end (`processes`); ValueError unless that is exactly one."""
    if given in all_keys():
        return given
    endings = [key for key in all_keys() if key.endswith(f".{given}")]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ValueError(f"ambiguous key (it may be {' or '.join(endings)})")
    close = difflib.get_close_matches(given, all_keys(), n=1, cutoff=_SIMILAR)
    last_names = difflib.get_close_matches(given.rpartition(".")[2], _keys_by_last_name(Config), n=1, cutoff=_SIMILAR)
    close += [key for name in last_names for key in _keys_by_last_name(Config)[name]]
    raise ValueError(f"unknown key (did you mean '{close[0]}'?)" if close else f"unknown key ({_TOP_LEVEL})")
