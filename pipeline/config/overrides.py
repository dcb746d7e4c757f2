"""`key=value` from the command line, laid over a recipe."""

from __future__ import annotations

import typing

from pipeline.config.document import COMMAND_LINE, Document, Entry, Problem, decode_document, merged
from pipeline.config.keys import field_at, resolve_short_key
from pipeline.ground.errors import UserError


def apply_override(root: Entry, override: str, problems: list[Problem]) -> Entry:
    """Return the tree with one override on top; appends to `problems` if it is not `key=value`."""
    key, equals, text = (part.strip() for part in override.partition("="))
    try:
        if not equals or not key:
            raise ValueError("must be key=value, as in train.epochs=3")
        key = resolve_short_key(key)
        document = _parse(text, key)
    except ValueError as error:
        problems.append(Problem(COMMAND_LINE, key or override, str(error)))
        return root
    except UserError:
        wanted = f"must be a YAML value (given {text}; put special characters in quotes)"
        problems.append(Problem(COMMAND_LINE, key, wanted))
        return root
    problems += document.problems
    entry = document.root
    for name in reversed(key.split(".")):
        entry = Entry({name: entry}, COMMAND_LINE, override)
    return merged(root, entry)


def _parse(text: str, key: str) -> Document:
    """Parse the value as YAML; for string keys, unquoted text is taken literally."""
    field = field_at(key.split("."))
    is_string = field and (field.annotation is str or {*typing.get_args(field.annotation)} == {str, type(None)})
    if is_string and text not in ("", "null", "~") and text[0] not in "'\"":
        return Document(Entry(text, COMMAND_LINE, text), [])
    return decode_document(text.encode(errors="surrogateescape"), COMMAND_LINE.source, key)
