"""The config as one stage may read it: an undeclared field cannot affect its result."""

from __future__ import annotations

import types
from collections.abc import Collection
from typing import Any, cast

from pydantic.fields import FieldInfo

from pipeline.config.identity import is_section, kind_of
from pipeline.config.schema import Config
from pipeline.config.section import Kind, Section


class UndeclaredKey(Exception):
    """A stage read a result field of an undeclared section, which its key would not cover."""


def view(config: Config, sections: Collection[str], read: set[str] | None = None) -> Config:
    """Return the config with result fields readable in `sections` alone; operations and checks everywhere.

    Reading another result field raises UndeclaredKey. `read` collects the dotted names of the leaves that were read.
    """
    return cast(Config, _View(config, "", frozenset(sections), Kind.RESULT, set() if read is None else read))


class _View:
    """A section, or the whole config, behind the same attributes."""

    def __init__(self, section: Section, prefix: str, sections: frozenset[str], kind: Kind, read: set[str]) -> None:
        self._section = section
        self._prefix = prefix
        self._sections = sections
        self._kind = kind
        self._read = read

    def __getattr__(self, name: str) -> Any:
        field = type(self._section).model_fields.get(name)
        if field is None:
            return self._bound(name)
        return self._value(name, field)

    def __eq__(self, other: object) -> bool:
        return self._section == (other._section if isinstance(other, _View) else other)

    def __hash__(self) -> int:
        return hash(self._section)

    def _value(self, name: str, field: FieldInfo) -> Any:
        value, full, kind = getattr(self._section, name), self._prefix + name, kind_of(field, self._kind)
        if is_section(field) and isinstance(value, Section):
            # A section of operations may be passed on unchanged: nothing in it can be undeclared.
            return _View(value, f"{full}.", self._sections, kind, self._read) if kind is Kind.RESULT else value
        if kind is Kind.RESULT and full.partition(".")[0] not in self._sections:
            raise UndeclaredKey(f"{full} can change a result; name '{full.partition('.')[0]}' in the stage's sections")
        self._read.add(full)
        return value

    def _bound(self, name: str) -> Any:
        """Return a property or method of the section that reads through this view."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name.startswith("model_"):
            raise UndeclaredKey(f"{name}: a stage reads fields one by one; pydantic's own methods read all of them")
        member = getattr(type(self._section), name)
        if isinstance(member, property):
            assert member.fget is not None
            return member.fget(self)
        return types.MethodType(member, self)
