"""`key=value` from the command line, laid over a recipe."""

from __future__ import annotations

import typing

from pipeline.config.document import COMMAND_LINE, Entry, Problem, merged, parse_document
from pipeline.config.keys import field_at, resolve_short_key
from pipeline.ground.errors import UserError

_NULLS = ("", "null", "~")


def apply_override(root: Entry, override: str, problems: list[Problem]) -> Entry:
    """The tree with one override on top; a mistake in it is added to `problems` and changes nothing."""
    given, equals, text = override.partition("=")
    given = given.strip()
    if not equals or not given:
        problems.append(Problem(COMMAND_LINE, override, "must be key=value, as in train.epochs=3"))
        return root
    try:
        key = resolve_short_key(given)
    except ValueError as error:
        problems.append(Problem(COMMAND_LINE, given, str(error)))
        return root
    try:
        value = _parse(text, key, problems)
    except UserError:
        problems.append(
            Problem(COMMAND_LINE, key, f"must be a YAML value (given {text}; put special characters in quotes)")
        )
        return root
    return _with_value(root, key.split("."), value)


def _parse(text: str, key: str, problems: list[Problem]) -> Entry:
    """The value as YAML; but for a key that holds text, what is neither null nor quoted is that text as it stands."""
    text = text.strip()
    if _holds_text(key) and text not in _NULLS and text[0] not in "'\"":
        return Entry(text, COMMAND_LINE, text)
    document = parse_document(text, COMMAND_LINE.source)
    if document.root is None:
        return Entry(None, COMMAND_LINE, "nothing")
    for problem in document.problems:
        inner = problem.key if problem.key.startswith("[") else f".{problem.key}".rstrip(".")
        problems.append(Problem(COMMAND_LINE, f"{key}{inner}", problem.text))
    return _from_command_line(document.root)


def _holds_text(key: str) -> bool:
    field = field_at(tuple(key.split(".")))
    assert field is not None, key
    return field.annotation is str or set(typing.get_args(field.annotation)) == {str, type(None)}


def _with_value(entry: Entry, names: list[str], value: Entry) -> Entry:
    if not names:
        return merged(entry, value)
    # A section keeps its own place: what it lacks is not the command line's fault.
    entries = dict(entry.value) if isinstance(entry.value, dict) else {}
    entries[names[0]] = _with_value(entries.get(names[0], Entry({}, COMMAND_LINE, "nothing")), names[1:], value)
    return Entry(entries, entry.place, entry.text)


def _from_command_line(entry: Entry) -> Entry:
    value = entry.value
    if isinstance(value, dict):
        value = {name: _from_command_line(inner) for name, inner in value.items()}
    elif isinstance(value, list):
        value = [_from_command_line(inner) for inner in value]
    return Entry(value, COMMAND_LINE, entry.text)
