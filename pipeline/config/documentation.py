"""Every key of a recipe in words, read from the schema: type, default, meaning, and whether it changes results."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from pipeline.config.crop_plan import CropGroup, CropPlan
from pipeline.config.identity import leaves
from pipeline.config.keys import expectation, inner_section, section_at
from pipeline.config.network import SEConfig
from pipeline.config.schema import Config
from pipeline.config.section import Kind, Section

_LIMITS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_EFFECTS = {Kind.RESULT: "changes results", Kind.OPERATION: "does not change results", Kind.CHECK: "is only checked"}
_PLAN, _GROUP = "PLAN", "PLAN.crops[]"
"""Where the keys of a crop plan, and of its groups of crops, stand for any place of a recipe that has a plan."""
_TITLE = """# Keys of a recipe

Made from the schema by `python -m launch keys --markdown > docs/keys.md`; `python -m launch keys WORD` answers the
same on a terminal.

*result*: results depend on the key, so another value makes them anew. *operation*: how, where or how fast something is
done; it may change at any time. *check*: a claim that is compared with what is found.
"""


@dataclasses.dataclass(frozen=True)
class KeyEntry:
    """A key in words."""

    name: str
    """Dotted: `train.epochs`."""
    type: str
    default: str
    """As YAML, or "must be given"."""
    meaning: str
    kind: Kind

    @property
    def effect(self) -> str:
        """Whether it changes results, as a part of a sentence."""
        return _EFFECTS[self.kind]


@functools.cache
def key_entries() -> tuple[KeyEntry, ...]:
    """Return every key of a recipe that holds a value, in the schema's order; those of crop plans last."""
    return (
        *_entries(Config),
        *_entries(SEConfig, "model.se."),
        *_entries(CropPlan, f"{_PLAN}."),
        *_entries(CropGroup, f"{_GROUP}."),
    )


def find_entries(word: str) -> list[KeyEntry]:
    """Return the keys that have the word in their name, and behind them those that have it in their meaning."""
    wanted = word.lower()
    named = [entry for entry in key_entries() if wanted in entry.name.lower()]
    return named + [entry for entry in key_entries() if wanted in entry.meaning.lower() and entry not in named]


def key_page() -> str:
    """Return all keys as a page of Markdown, a table for each section."""
    parts = [_TITLE]
    for section, entries in itertools.groupby(key_entries(), lambda entry: entry.name.rpartition(".")[0]):
        parts.append(f"\n## {section or 'Top level'}\n\n{_section_meaning(section)}\n\n")
        parts.append("| key | value | default | kind | meaning |\n| --- | --- | --- | --- | --- |\n")
        for entry in entries:
            cells = (f"`{entry.name}`", entry.type, f"`{entry.default}`", entry.kind.value, entry.meaning)
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(parts)


@functools.cache
def attribute_meanings(section: type[Section]) -> dict[str, str]:
    """Return the docstrings below the attributes of a section, by name, each as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, after in itertools.pairwise(definition.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[statement.target.id] = " ".join(str(after.value.value).split())
    return found


def _entries(schema: type[Section], prefix: str = "") -> Iterator[KeyEntry]:
    # Those of the top level first: a page has one table for them.
    for leaf in sorted(leaves(schema), key=lambda leaf: "." in leaf.name):
        *above, last = leaf.name.split(".")
        section = section_at(above, schema)
        assert section is not None
        meaning = attribute_meanings(section).get(last, "")
        yield KeyEntry(prefix + leaf.name, _type_of(leaf.field), _default_of(leaf.field), meaning, leaf.kind)


def _type_of(field: FieldInfo) -> str:
    inner = inner_section(field.annotation)
    if inner is CropPlan or inner is CropGroup:
        kind = "crop plan" if inner is CropPlan else "group of crops"
        return f"a list, each item a {kind}" if "tuple" in str(field.annotation) else f"a {kind}"
    limits = [
        f"{words} {getattr(mark, name):g}"
        for mark in field.metadata
        for name, words in _LIMITS.items()
        if getattr(mark, name, None) is not None
    ]
    return ", ".join([expectation(field.annotation), *limits])


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    return json.dumps(_plain(field.get_default(call_default_factory=True)), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a crop plan by its name; anything else as it is."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, CropPlan) else value


def _section_meaning(name: str) -> str:
    """Return the purpose of a section: the docstring of its class."""
    named = {"": Config, _PLAN: CropPlan, _GROUP: CropGroup}
    section = named.get(name) or section_at(name.split("."))
    assert section is not None, name
    return " ".join(inspect.cleandoc(section.__doc__ or "").split())
