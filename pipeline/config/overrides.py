"""`key=value` from the command line, laid over a recipe."""

from __future__ import annotations

import json
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.document import COMMAND_LINE, Document, Entry, Problem, decode_document, merged
from pipeline.config.keys import field_at, resolve_short_key
from pipeline.config.sweep import SECTION
from pipeline.ground.errors import UserError

_SWEPT = f"{SECTION}."
"""Before a key: a list of its values, one for each member of a sweep."""


def apply_overrides(root: Entry, overrides: Sequence[str], problems: list[Problem]) -> Entry:
    """Return the tree with the overrides on top.

    Appends to `problems` those that are not `key=value`, and keys that are given two values: neither is surely meant.
    """
    given: dict[str, Any] = {}
    for override in overrides:
        root = _apply(root, override, given, problems)
    return root


def _apply(root: Entry, override: str, given: dict[str, Any], problems: list[Problem]) -> Entry:
    key, equals, text = (part.strip() for part in override.partition("="))
    try:
        if not equals and key and ("/" in key or Path(key).is_dir()):
            written = shlex.quote(f"data.root={key}")
            raise ValueError(f"must be key=value; for the folder of the images write {written}")
        if not equals or not key:
            raise ValueError("must be key=value, as in train.epochs=3")
        swept, key = key.startswith(_SWEPT), resolve_short_key(key.removeprefix(_SWEPT))
        full = f"{_SWEPT}{key}" if swept else key
        document = (
            decode_document(text.encode(errors="surrogateescape"), COMMAND_LINE.source, full)
            if swept
            else _parse(text, key)
        )
        for leaf, value in _leaves(full, document.root.plain()):
            if given.setdefault(leaf, value) != value and value == value:  # a NaN differs from itself
                key = leaf
                raise ValueError(f"must be given once (given {_shown(given[leaf])} and {_shown(value)})")
    except ValueError as error:
        problems.append(Problem(COMMAND_LINE, key or override, str(error)))
        return root
    except UserError:
        wanted = f"must be a YAML value (given {text}; put special characters in quotes)"
        problems.append(Problem(COMMAND_LINE, key, wanted))
        return root
    problems += document.problems
    entry = document.root
    for name in (key, SECTION) if swept else reversed(key.split(".")):
        entry = Entry({name: entry}, COMMAND_LINE, override)
    return merged(root, entry)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an override sets: the key itself, or those below it."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def describe_overrides(overrides: Sequence[str]) -> list[str]:
    """Return a line for each key that overrides set: its full name and the value as given, as `train.epochs = 90`."""
    lines = {}
    for override in overrides:
        name, _, text = (part.strip() for part in override.partition("="))
        swept = _SWEPT if name.startswith(_SWEPT) else ""
        key = f"{swept}{resolve_short_key(name.removeprefix(_SWEPT))}"
        lines[key] = f"{key} = {text or 'null'}"
    return list(lines.values())


def _shown(value: Any) -> str:
    """Return a value as it could be typed."""
    return value if isinstance(value, str) else json.dumps(value)


def _parse(text: str, key: str) -> Document:
    """Parse the value as YAML; for string keys, unquoted text is taken literally."""
    field = field_at(key.split("."))
    is_string = field and (field.annotation is str or {*typing.get_args(field.annotation)} == {str, type(None)})
    if is_string and text not in ("", "null", "~") and text[0] not in "'\"":
        return Document(Entry(text, COMMAND_LINE, text), [])
    return decode_document(text.encode(errors="surrogateescape"), COMMAND_LINE.source, key)
