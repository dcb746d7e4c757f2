"""What pydantic found wrong, said in plain words and at the place where the user wrote it."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pipeline.config.document import Entry, Place, Problem
from pipeline.config.keys import expectation, explain_unknown, field_at, inner_section
from pipeline.config.schema import Config
from pipeline.config.section import Section

Path = tuple[int | str, ...]

_TYPE_ERRORS = {
    "bool_type", "bool_parsing", "int_type", "int_from_float", "int_parsing", "float_type", "float_parsing",
    "string_type", "tuple_type", "literal_error", "model_type",
}  # fmt: skip
_COMPARISONS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def take_out_unknown_keys(root: Entry, schema: type[Section] = Config) -> tuple[Entry, list[Problem]]:
    """The tree without keys that the schema does not have, and a problem for each.

    A misspelt key is taken for the one that was meant, so that its value is checked in the same pass.
    """
    problems: list[Problem] = []
    return _with_known_keys(root, schema, schema, (), problems), problems


def _with_known_keys(
    entry: Entry, section: type[Section], schema: type[Section], path: Path, problems: list[Problem]
) -> Entry:
    if isinstance(entry.value, list):
        items = [
            _with_known_keys(item, section, schema, (*path, number), problems)
            for number, item in enumerate(entry.value)
        ]
        return Entry(items, entry.place, entry.text)
    if not isinstance(entry.value, dict):
        return entry
    known: dict[str, Entry] = {}
    for name, inner in entry.value.items():
        meant: str | None = name
        if name not in section.model_fields:
            text, meant = explain_unknown(name, section, schema)
            problems.append(Problem(inner.place, dotted((*path, name)), text))
            meant = None if meant in entry.value else meant
        if meant is None:
            continue
        deeper = inner_section(section.model_fields[meant].annotation)
        known[meant] = inner if deeper is None else _with_known_keys(inner, deeper, schema, (*path, meant), problems)
    return Entry(known, entry.place, entry.text)


def explain(error: ValidationError, root: Entry, schema: type[Section] = Config) -> list[Problem]:
    """One problem for each of pydantic's errors; `root` is the tree that was validated."""
    problems: dict[Problem, None] = {}
    for details in error.errors(include_url=False):
        for problem in _explain_one(
            details["type"], details["loc"], details.get("ctx", {}), details["msg"], root, schema
        ):
            problems[problem] = None
    return list(problems)


def _explain_one(
    kind: str, location: Path, context: dict[str, Any], message: str, root: Entry, schema: type[Section]
) -> Iterator[Problem]:
    path = _without_branches(location, root)
    if path is None:
        return
    if kind in ("missing", "too_long") and isinstance(path[-1], int):
        path, kind = path[:-1], "tuple_type"  # a fixed number of items: the list as a whole is wrong
    if kind == "value_error":
        # The schema's own checks name their key, relative to the section they are in; one line for each problem.
        for line in str(context["error"]).splitlines():
            key, _, text = line.partition(": ")
            inner = (*path, *key.split("."))
            yield Problem(_nearest(root, inner).place, dotted(inner), text)
        return
    entry = _nearest(root, path)
    yield Problem(
        entry.place, dotted(path), _in_plain_words(kind, field_at(path, schema), path, context, message, entry)
    )


def _in_plain_words(
    kind: str, field: FieldInfo | None, path: Path, context: dict[str, Any], message: str, entry: Entry
) -> str:
    assert field is not None, path
    annotation: Any = field.annotation
    if isinstance(path[-1], int):
        annotation = annotation.__args__[0]  # an item of a list
    given = f"(given {entry.text})"
    if kind == "missing":
        return f"must be given: {expectation(annotation)}"
    if kind in _COMPARISONS:
        bound, words = _COMPARISONS[kind]
        return f"must be {words} {context[bound]:g} {given}"
    if kind in _TYPE_ERRORS or (kind == "too_long" and expectation(annotation).startswith("a list of")):
        return f"must be {expectation(annotation)} (given {entry.text}{_hint(kind, entry, annotation)})"
    if kind == "finite_number":
        return f"must be a finite number {given}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} item {given}"
    if kind == "string_pattern_mismatch":
        return f"must begin with a letter or digit and go on with letters, digits, '_', '.' or '-' {given}"
    return f"{message[0].lower()}{message[1:]} {given}"


def _hint(kind: str, entry: Entry, annotation: Any) -> str:
    if kind == "bool_type" and str(entry.value).lower() in ("yes", "no", "on", "off", "y", "n"):
        return ", which is text in YAML 1.2"
    if kind == "string_type" and isinstance(entry.value, bool | int | float) and inner_section(annotation) is None:
        return "; put it in quotes"
    if kind == "literal_error" and isinstance(entry.value, str):
        close = difflib.get_close_matches(entry.value, typing.get_args(annotation), n=1)
        return f"; did you mean {close[0]}?" if close else ""
    return ""


def _without_branches(location: Path, root: Entry) -> Path | None:
    """The path without pydantic's names for the branches of `str | CropPlan`; None for the branch not meant."""
    path: list[int | str] = []
    for name in location:
        value = _nearest(root, tuple(path)).value
        if name == "str" and path:
            if not isinstance(value, str):
                return tuple(path) if not isinstance(value, dict) else None
        elif isinstance(name, str) and "CropPlan" in name:  # also as "function-after[check(), CropPlan]"
            if not isinstance(value, dict):
                return None
        else:
            path.append(name)
    return tuple(path)


def _nearest(root: Entry, path: Path) -> Entry:
    """The entry at the path, or the last one on the way there."""
    entry = root
    for name in path:
        value = entry.value
        in_mapping = isinstance(value, dict) and name in value
        if not in_mapping and not (isinstance(value, list) and isinstance(name, int) and name < len(value)):
            break
        entry = value[name]
    return entry


def dotted(path: Path) -> str:
    """`evaluate.plans[2].name`."""
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path).removeprefix(".")


def in_order(problems: list[Problem], sources: list[str]) -> list[Problem]:
    """Sorted by file (in the order of `sources`, the command line last) and line."""

    def position(place: Place) -> tuple[int, int]:
        known = place.source in sources
        return (sources.index(place.source) if known else len(sources), place.line or 0)

    return sorted(problems, key=lambda problem: position(problem.place))
