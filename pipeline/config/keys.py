"""The dotted names of all keys of a recipe, and which one was meant by a name that is not among them."""

from __future__ import annotations

import difflib
import functools
import types
import typing
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.schema import Config, Section

_SIMILAR = 0.7


@functools.cache
def all_keys() -> tuple[str, ...]:
    """Every key in the schema's order, sections included: `name`, `seed`, `data`, `data.dataset` ...

    What is inside a crop plan is left out: it has no fixed place in a recipe.
    """
    return tuple(_keys_of(Config, ""))


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


def field_at(path: tuple[int | str, ...]) -> FieldInfo | None:
    """The field that the path (names, and numbers of list items) leads to or through last."""
    section: type[Section] | None = Config
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
        return f"one of {', '.join(arguments)}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list (each: {expectation(arguments[0])})"
    if origin is tuple:
        return f"a list of {len(arguments)} numbers"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if argument is type(None) else expectation(argument) for argument in arguments)
    assert section is not None, annotation
    return f"a section with the keys {', '.join(section.model_fields)}"


def similar_key(name: str, section: type[Section]) -> str | None:
    """The key of this very section that `name` is a misspelling of."""
    close = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=_SIMILAR)
    return close[0] if close else None


def explain_unknown(name: str, section: type[Section], similar: str | None) -> str:
    """What to write instead of the key `name`, which `section` does not have."""
    elsewhere = [key for key in all_keys() if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"unknown key here (it belongs to {_places(elsewhere)})"
    if similar is not None:
        return f"unknown key (did you mean '{similar}'?)"
    last_names = {key.rpartition(".")[2]: key for key in reversed(all_keys())}
    close = difflib.get_close_matches(name, last_names, n=1, cutoff=_SIMILAR)
    if close:
        return f"unknown key (did you mean '{close[0]}'? It belongs to {_places([last_names[close[0]]])})"
    return f"unknown key (there are: {', '.join(section.model_fields)})"


def _places(keys: list[str]) -> str:
    return " or ".join(key.rpartition(".")[0] or "the top level" for key in keys)


def resolve_short_key(given: str) -> str:
    """The full name of a key given in full or by its end (`processes`); ValueError unless that is exactly one."""
    if given in all_keys() or _leads_into_plan(given):
        return given
    endings = [key for key in all_keys() if key.endswith(f".{given}")]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ValueError(f"ambiguous key (it may be {' or '.join(endings)})")
    last_names = {key.rpartition(".")[2]: key for key in reversed(all_keys())}
    close = difflib.get_close_matches(given, all_keys(), n=1, cutoff=_SIMILAR)
    close = close or [last_names[name] for name in difflib.get_close_matches(given.rpartition(".")[2], last_names, n=1)]
    raise ValueError(f"unknown key (did you mean '{close[0]}'?)" if close else "unknown key")


def _leads_into_plan(given: str) -> bool:
    return field_at(tuple(given.split("."))) is not None
