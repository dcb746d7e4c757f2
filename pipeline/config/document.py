"""A YAML file as a tree of entries that know where they were written."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pipeline.ground.errors import UserError

_DATE = "tag:yaml.org,2002:timestamp"
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")} | {_DATE}
_COLLECTIONS = {"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_SHOWN_LENGTH = 60


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something was written: a line of a file, or (line None) the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


COMMAND_LINE = Place("command line")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake of the user's: printed as `place: key: what must hold (given ...)`."""

    place: Place
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.key, self.text) if part)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value and where it was written; lists and mappings hold entries."""

    value: Any
    """None, bool, int, float, str, list[Entry] or dict[str, Entry]."""
    place: Place
    text: str
    """As written, for messages; shortened where it is long."""

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value


def merged(base: Entry, top: Entry) -> Entry:
    """`top` laid over `base`: mappings key by key, anything else whole."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    entries = dict(base.value)
    for name, entry in top.value.items():
        entries[name] = merged(entries[name], entry) if name in entries else entry
    return Entry(entries, top.place, top.text)


@dataclasses.dataclass(frozen=True)
class Document:
    """A parsed text, and the mistakes that did not keep it from being parsed."""

    root: Entry | None
    """None for a text without any value."""
    problems: list[Problem]


def decode_document(content: bytes, source: str) -> Document:
    """Parse a file's content; UserError with file and line where it is not UTF-8 or not YAML."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        place = Place(source, content.count(b"\n", 0, error.start) + 1)
        raise UserError(f"{place}: must be UTF-8 text (given the byte 0x{content[error.start]:02x})") from error
    return parse_document(text, source)


def parse_document(text: str, source: str) -> Document:
    """Parse YAML 1.2; UserError `source:line: not valid YAML: ...` where that fails."""
    try:
        node = _yaml().compose(text)
    except MarkedYAMLError as error:
        mark, reason = _in_plain_words(error)
        raise UserError(f"{Place(source, mark.line + 1)}: not valid YAML: {reason}") from error
    except ReaderError as error:
        place = Place(source, text.count("\n", 0, error.position) + 1)
        raise UserError(f"{place}: not valid YAML: holds the control character U+{error.character:04X}") from error
    except RecursionError:
        raise UserError(f"{source}: not a recipe: hundreds of brackets within each other") from None
    walk = _Walk(source)
    root = None if node is None else walk.entry(node, node.start_mark.line + 1, "")
    return Document(root, walk.problems)


def _yaml() -> Any:
    # pure: the C parser, where it is installed, reads YAML 1.1, in which `off` is a boolean and 010 is eight.
    return YAML(typ="safe", pure=True)


def _in_plain_words(error: MarkedYAMLError) -> tuple[Any, str]:
    """The mark of the place that is to be mended, and the reason."""
    problem, context = str(error.problem), str(error.context or "")
    if r"'\t'" in problem:
        return error.problem_mark, "tabs cannot indent; use spaces"
    if "mapping values are not allowed" in problem:
        reason = "a second ': ' in the line, or wrong indentation (put text that holds ': ' in quotes)"
        return error.problem_mark, reason
    if "another document" in problem:
        return error.problem_mark, "'---' begins a second document; a recipe is a single one"
    if "flow" in context and error.context_mark:
        return error.context_mark, "a bracket that opens here is not closed, or its items lack a comma"
    if "quoted scalar" in context and error.context_mark:
        return error.context_mark, "a quote that opens here is not closed"
    return error.problem_mark or error.context_mark, f"{context}, {problem}".removeprefix(", ")


class _Walk:
    """Turns the nodes of one text into entries and collects what is wrong with them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._open: list[Node] = []
        self._constructor = _yaml().constructor

    def entry(self, node: Node, line: int, key: str) -> Entry:
        """The entry of `node`; `line` is where its key stands, which for a section is above its value."""
        if node in self._open:
            return self._wrong(line, key, "must not contain itself (an alias to what encloses it)")
        if node.tag not in (_SCALARS if isinstance(node, ScalarNode) else _COLLECTIONS):
            return self._wrong(line, key, f"must be a plain value (given the tag {_tag(node)})")
        if isinstance(node, ScalarNode):
            return self._scalar(node, line, key)
        self._open.append(node)
        entry = self._sequence(node, line, key) if isinstance(node, SequenceNode) else self._mapping(node, line, key)
        self._open.pop()
        return entry

    def _scalar(self, node: ScalarNode, line: int, key: str) -> Entry:
        text = f"'{node.value}'" if node.style else node.value or "nothing"
        try:
            # No key of a recipe is a date, and a run may well be named like one.
            value = node.value if node.tag == _DATE else self._constructor.construct_object(node)
        except (ValueError, LookupError, YAMLError):
            return self._wrong(line, key, f"must be what its tag says (given {_tag(node)} {text})")
        return Entry(value, Place(self.source, line), _shortened(text))

    def _sequence(self, node: SequenceNode, line: int, key: str) -> Entry:
        items = [
            self.entry(item, item.start_mark.line + 1, f"{key}[{number}]") for number, item in enumerate(node.value)
        ]
        return Entry(items, Place(self.source, line), _shortened(f"[{', '.join(item.text for item in items)}]"))

    def _mapping(self, node: Node, line: int, key: str) -> Entry:
        entries: dict[str, Entry] = {}
        for name_node, value_node in node.value:
            name_line = name_node.start_mark.line + 1
            if not isinstance(name_node, ScalarNode):
                self._wrong(name_line, key, "must have plain names as keys (given a list or a mapping)")
                continue
            name = name_node.value
            dotted = f"{key}.{name}" if key else name
            entry = self.entry(value_node, name_line, dotted)
            if name in entries:
                self._wrong(name_line, dotted, f"must be given once (line {entries[name].place.line} has it already)")
                continue
            entries[name] = entry
        shown = ", ".join(f"{name}: {entry.text}" for name, entry in entries.items())
        return Entry(entries, Place(self.source, line), _shortened(f"{{{shown}}}"))

    def _wrong(self, line: int, key: str, text: str) -> Entry:
        place = Place(self.source, line)
        self.problems.append(Problem(place, key, text))
        return Entry(None, place, "nothing")


def _tag(node: Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _shortened(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 3]}..."
