"""Identities and keys: the result fields of a recipe that are not at their defaults, and hashes of them.

A field that is added later, with the old behaviour as its default, changes no identity and so no key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.keys import inner_section
from pipeline.config.schema import Config
from pipeline.config.section import Kind, Section

_KEY_LENGTH = 10


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A field of the schema that holds a value, not a section."""

    name: str
    """Dotted: `train.epochs`."""
    kind: Kind
    field: FieldInfo

    @property
    def section(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


def leaves(schema: type[Section] = Config, prefix: str = "", kind: Kind = Kind.RESULT) -> Iterator[Leaf]:
    """Yield every leaf of the schema in its order. A list of sections, as of crop plans, is one leaf."""
    for name, field in schema.model_fields.items():
        own = kind_of(field, kind)
        inner = inner_section(field.annotation)
        if inner is None or not is_section(field):
            yield Leaf(prefix + name, own, field)
        else:
            yield from leaves(inner, f"{prefix}{name}.", own)


def kind_of(field: FieldInfo, outer: Kind = Kind.RESULT) -> Kind:
    """Return the kind of a field: its own mark, or else that of its section."""
    return next((mark for mark in field.metadata if isinstance(mark, Kind)), outer)


def is_section(field: FieldInfo) -> bool:
    """Return whether the field holds a section of fixed keys: no list of sections, and no crop plan, which is one
    value."""
    inner = inner_section(field.annotation)
    return inner is not None and not inner.is_value and tuple not in _origins(field.annotation)


def identity(config: Config, sections: Collection[str]) -> dict[str, Any]:
    """Return the result leaves of the sections that are not at their defaults, by dotted name, as plain values."""
    found: dict[str, Any] = {}
    for name in sections:
        field = Config.model_fields[name]
        found |= _of_field(getattr(config, name), field, name, kind_of(field))
    return found


def key_of(*parts: Any) -> str:
    """Return ten hexadecimal digits of a SHA-256 over plain values; the order of a mapping's names does not count."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:_KEY_LENGTH]


def plain_identity(section: Section) -> dict[str, Any]:
    """Return the result fields of one section that are not at their defaults, without prefix: of a crop plan, say."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        found |= _of_field(getattr(section, name), field, name, kind_of(field))
    return found


def _of_field(value: Any, field: FieldInfo, name: str, kind: Kind) -> dict[str, Any]:
    if isinstance(value, Section) and is_section(field):
        found: dict[str, Any] = {}
        for inner_name, inner in type(value).model_fields.items():
            found |= _of_field(getattr(value, inner_name), inner, f"{name}.{inner_name}", kind_of(inner, kind))
        return found
    if kind is not Kind.RESULT:
        return {}
    if not field.is_required() and value == field.get_default(call_default_factory=True):
        return {}
    return {name: _plain(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return plain_identity(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _origins(annotation: Any) -> set[Any]:
    origin = getattr(annotation, "__origin__", None)
    inner = getattr(annotation, "__args__", ())
    return {origin} | {each for argument in inner for each in _origins(argument)}
