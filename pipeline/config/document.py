"""A YAML file as a tree of entries with their places in the file."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from pipeline.ground.errors import UserError

_CORE = "tag:yaml.org,2002:"
# No key of a recipe is a date, and a run may well be named like one. Neither merge keys nor `=` are YAML 1.2.
_TEXTS = {_CORE + name for name in ("str", "timestamp", "merge", "value")}
_SCALARS = _TEXTS | {_CORE + name for name in ("null", "bool", "int", "float")}
_COLLECTIONS = {_CORE + "seq", _CORE + "map"}
_SHOWN_LENGTH = 60
_MOST_REPEATED = 10_000
_REASONS = {
    r"'\t'": "tabs cannot indent; use spaces",
    "mapping values are not": "a second ': ' in the line, or wrong indentation (put text that holds ': ' in quotes)",
    "another document": "'---' begins a second document; this must be a single one",
    "flow": "a bracket that opens here is not closed, or its items lack a comma",
    "quoted scalar": "a quote that opens here is not closed",
}
"""Replacements for ruamel's messages that contain these words."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Origin of a value: a line of a file, or (line None) the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


COMMAND_LINE = Place("command line")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A mistake of the user, printed as `place: key: what must hold (given ...)`."""

    place: Place
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.key, self.text) if part)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value and its place; lists and mappings hold entries."""

    value: Any
    """None, bool, int, float, str, list[Entry] or dict[str, Entry]."""
    place: Place
    text: str
    """As written, for messages; shortened if it is long."""

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        return [entry.plain() for entry in self.value] if isinstance(self.value, list) else self.value


def merged(base: Entry, top: Entry) -> Entry:
    """Lay `top` over `base`: mappings key by key, anything else whole."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    entries = dict(base.value)
    for name, entry in top.value.items():
        entries[name] = merged(entries[name], entry) if name in entries else entry
    # What a section of a file lacks is not the command line's fault.
    return Entry(entries, base.place if top.place == COMMAND_LINE else top.place, top.text)


@dataclasses.dataclass(frozen=True)
class Document:
    """A parsed text, and the mistakes that did not prevent parsing."""

    root: Entry
    problems: list[Problem]


def read_document(path: Path, kind: str, named_by: str = "") -> Document:
    """Read a file of `key: value` lines: a `kind`, such as "recipe".

    Raises UserError, which begins with `named_by`, if it cannot be read; for a missing file it lists similar names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        names = sorted(file.name for file in path.parent.glob("[!.]*.y*ml")) if is_missing else []
        close = difflib.get_close_matches(path.name, names, n=1)
        near = f" (did you mean {path.with_name(close[0])}?)" if close else f" (there are: {', '.join(names)})"
        reason = str(error.strerror).lower() + (near if names else "")
        raise UserError(f"{named_by}{path}: {reason}") from error
    document = decode_document(content, str(path))
    if not isinstance(document.root.value, dict):
        raise UserError(f"{path}:1: a {kind} must be `key: value` lines (given {document.root.text})")
    return document


def decode_document(content: bytes, source: str, key: str = "") -> Document:
    """Parse YAML 1.2, the value of `key`. Raises UserError with the line if it is not UTF-8 or not YAML."""
    try:
        text = content.decode()
        walk = _Walk(text, source)
        node = yaml().compose(text)
        root = Entry(None, _place(source, 0), "nothing") if node is None else walk.entry(node, 0, key)
        return Document(root, walk.problems)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        reason = f"must be UTF-8 text (given the byte 0x{content[error.start]:02x})"
    except MarkedYAMLError as error:
        context = str(error.context or "")
        reason = f"{context}, {error.problem}".removeprefix(", ")
        words = next((words for words in _REASONS if words in reason), reason)
        mark = error.context_mark if words in context else error.problem_mark
        line = (mark or error.problem_mark or error.context_mark).line
        reason = f"not valid YAML: {_REASONS.get(words, reason)}"
    except ReaderError as error:
        line = text.count("\n", 0, error.position)
        reason = f"not valid YAML: holds the control character U+{error.character:04X}"
    except RecursionError:
        line, reason = 0, "not valid YAML: hundreds of brackets within each other"
    raise UserError(f"{_place(source, line)}: {reason}")


def yaml() -> Any:
    """Return a reader and writer of YAML 1.2."""
    # pure: the C parser, where it is installed, reads YAML 1.1, in which `off` is a boolean and 010 is eight.
    return YAML(typ="safe", pure=True)


def _place(source: str, line: int) -> Place:
    return COMMAND_LINE if source == COMMAND_LINE.source else Place(source, line + 1)


class _Walk:
    """Converts the nodes of one text to entries and collects the mistakes in them."""

    def __init__(self, text: str, source: str) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._source = source
        self._open: list[Node] = []
        self._seen: set[Node] = set()
        self._repeated = 0
        self._construct = yaml().constructor.construct_object

    def entry(self, node: Node, line: int, key: str) -> Entry:
        """Return the entry of `node`; `line` is that of its key, which for a section is above its value."""
        place = _place(self._source, line)
        self._repeated += node in self._seen
        self._seen.add(node)
        if self._repeated > _MOST_REPEATED:
            raise UserError(f"{place}: {key}: aliases (*name) repeat more than {_MOST_REPEATED:,} values in all")
        if node in self._open:
            return self._wrong(place, key, "must not contain itself (an alias to what encloses it)")
        if node.tag not in (_SCALARS if isinstance(node, ScalarNode) else _COLLECTIONS):
            tag = str(node.tag).replace(_CORE, "!!")
            return self._wrong(place, key, f"must be a plain value (given the tag {tag})")
        if isinstance(node, ScalarNode):
            return self._scalar(node, place, key)
        self._open.append(node)
        entry = (self._mapping if isinstance(node, MappingNode) else self._sequence)(node, place, key)
        self._open.pop()
        return entry

    def _scalar(self, node: ScalarNode, place: Place, key: str) -> Entry:
        text = _shortened(self._text[node.start_mark.index : node.end_mark.index]) or "nothing"
        # ruamel reads 1_000 and 0b1 as numbers, as only YAML 1.1 does.
        if node.tag in _TEXTS or "_" in node.value or "0b" in node.value:
            return Entry(node.value, place, text)
        try:
            return Entry(self._construct(node), place, text)
        except (ValueError, LookupError, YAMLError):
            return self._wrong(place, key, f"must be what its tag says (given {text})")

    def _sequence(self, node: Node, place: Place, key: str) -> Entry:
        items = [self.entry(item, item.start_mark.line, f"{key}[{number}]") for number, item in enumerate(node.value)]
        return Entry(items, place, _shortened(f"[{', '.join(item.text for item in items)}]"))

    def _mapping(self, node: Node, place: Place, key: str) -> Entry:
        entries: dict[str, Entry] = {}
        for name_node, value_node in node.value:
            name, line = name_node.value, name_node.start_mark.line
            if not isinstance(name_node, ScalarNode):
                place = _place(self._source, line)
                self._wrong(place, key, "must have plain names as keys (given a list or a mapping)")
                continue
            dotted = f"{key}.{name}" if key else name
            entry = self.entry(value_node, line, dotted)
            if name in entries:
                self._wrong(entry.place, dotted, f"must be given once ({entries[name].place} has it already)")
            else:
                entries[name] = entry
        shown = ", ".join(f"{name}: {entry.text}" for name, entry in entries.items())
        return Entry(entries, place, _shortened(f"{{{shown}}}"))

    def _wrong(self, place: Place, key: str, text: str) -> Entry:
        self.problems.append(Problem(place, key, text))
        return Entry(None, place, "nothing")


def _shortened(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
