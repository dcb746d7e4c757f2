"""Report pydantic's errors at the places of the user's files."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.document import Entry, Problem
from pipeline.config.keys import expectation, explain_unknown, field_at
from pipeline.config.section import Section
from pipeline.ground.errors import UserError

_UNKNOWN = "extra_forbidden"
Path = tuple[int | str, ...]
SectionT = TypeVar("SectionT", bound=Section)


def validated(schema: type[SectionT], root: Entry, problems: Sequence[Problem], files: Sequence[str] = ()) -> SectionT:
    """Return the section that the tree describes.

    A misspelt key is taken for the one that was probably meant, so that its value is checked too. Raises UserError with
    `problems` and all of pydantic's errors, in the order of `files` and their lines, the command line last.
    """
    found = list(problems)
    try:
        section = schema.model_validate(root.plain())
    except ValidationError as error:
        errors = {(_path(details, schema), details["type"]): details for details in error.errors()}
        unknown = [path for path, kind in errors if kind == _UNKNOWN]
        if unknown:
            return validated(schema, root, [*problems, *(_take_out(path, root, schema) for path in unknown)], files)
        known = {(problem.place, problem.key) for problem in problems}
        new_ones = dict.fromkeys(_explained(errors, root, schema))
        found += [new for new in new_ones if (new.place, new.key) not in known]
    if found:
        order = {source: number for number, source in enumerate(files)}
        found.sort(key=lambda problem: (order.get(problem.place.source, len(order)), problem.place.line or 0))
        raise UserError("\n".join(map(str, found)))
    return section


def _path(details: ErrorDetails, schema: type[Section]) -> Path:
    """Return the path of pydantic's error, without pydantic's names for the branches of a union."""
    path: Path = ()
    for name in details["loc"]:
        if isinstance(name, int) or field_at((*path, name), schema):
            path = (*path, name)
    return (*path, details["loc"][-1]) if details["type"] == _UNKNOWN else path


def _take_out(path: Path, root: Entry, schema: type[Section]) -> Problem:
    """Remove a key that the schema does not have, or rename it to the one that was probably meant."""
    entries = _nearest(root, path[:-1]).value
    entry = entries.pop(path[-1])
    text, meant = explain_unknown(path, schema)
    if meant is not None:
        entries.setdefault(meant, entry)
    return Problem(entry.place, _dotted(path), text)


def _explained(
    errors: Mapping[tuple[Path, str], ErrorDetails], root: Entry, schema: type[Section]
) -> Iterator[Problem]:
    # Every branch of a union whose type does not match is an error; those inside the matching branch say more.
    explained = {path[:end] for path, kind in errors for end in range(len(path) + (not _is_type(kind)))}
    for (path, kind), details in errors.items():
        if _is_type(kind) and path in explained:
            continue
        if kind != "value_error":
            entry = _nearest(root, path)
            yield Problem(entry.place, _dotted(path), _in_words(details, path, entry, schema))
            continue
        for line in str(details["ctx"]["error"]).splitlines():
            # The schema's own checks may begin with a key of their section.
            key, _, text = line.partition(": ")
            inner = (*path, *(int(name) if name.isdigit() else name for name in re.split(r"[.\[\]]+", key) if name))
            if len(inner) == len(path) or not field_at(inner, schema):
                inner, text = path, line
            yield Problem(_nearest(root, inner).place, _dotted(inner), text)


def _is_type(kind: str) -> bool:
    return kind.endswith("_type") or kind == "literal_error"


def _in_words(details: ErrorDetails, path: Path, entry: Entry, schema: type[Section]) -> str:
    field = field_at(path, schema)
    assert field is not None, path
    annotation: Any = field.annotation
    if isinstance(path[-1], int):
        choices = (annotation, *typing.get_args(annotation))
        annotation = next(typing.get_args(choice)[0] for choice in choices if typing.get_origin(choice) is tuple)
    kind, message, wanted = details["type"], details["msg"], expectation(annotation)
    if kind == "missing":
        return f"must be given: {wanted}"
    if not _is_type(kind):
        message = message.partition(" after validation")[0]
        return f"{re.sub('^.* should ', 'must ', message)} (given {entry.text})"
    hint = ""
    if kind == "literal_error":
        close = difflib.get_close_matches(str(entry.value), re.findall("'(.*?)'", details["ctx"]["expected"]), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
    elif isinstance(entry.value, str) and re.fullmatch(r"(?i)yes|no|on|off|y|n|\d+_[\d_]+", entry.value):
        hint = ", which is text in YAML 1.2"
    elif isinstance(entry.value, bool | int | float) and wanted.startswith("text"):
        hint = "; put it in quotes"
    return f"must be {wanted} (given {entry.text}{hint})"


def _nearest(root: Entry, path: Path) -> Entry:
    """Return the entry at the path, or the last one on the way there."""
    entry = root
    for name in path:
        value = entry.value
        in_list = isinstance(value, list) and isinstance(name, int) and name < len(value)
        if not in_list and not (isinstance(value, dict) and name in value):
            break
        entry = value[name]
    return entry


def _dotted(path: Path) -> str:
    """Return the path as `evaluate.plans[2].name`."""
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in path).removeprefix(".")
