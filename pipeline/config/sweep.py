"""Sweeps: a recipe with lists of values for some of its keys, expanded to the recipes of its members.

In a sweep's directory each member has a run directory; `sweep.json` lists them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.document import COMMAND_LINE, Entry, Problem, merged
from pipeline.config.identity import identity, leaves
from pipeline.config.keys import all_keys, explain_unknown
from pipeline.config.schema import Config
from pipeline.config.section import IS_PATH
from pipeline.ground.errors import UserError
from pipeline.store.file import write_json

SECTION = "sweep"
"""The key of a recipe."""
SWEEP = "sweep.json"
"""In the directory of a sweep: the names of its members in order, and the values in which they differ."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A run of a sweep; or the only one of a recipe without a sweep, which has no name."""

    name: str
    """Also that of its run directory: `reduction2-seed1`."""
    values: Mapping[str, Any]
    """The values of the swept keys."""
    config: Config


def expand(root: Entry, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any], Entry]]:
    """Yield name, swept values and recipe of each member: one for each combination, the first key's values first.

    A recipe without a sweep is its only member, without a name. Appends to `problems` keys that cannot be swept.
    """
    section = root.value.pop(SECTION, None)
    if section is None or section.value is None:
        yield "", {}, root
        return
    axes = _axes(section, root, problems)
    ends = [key.rpartition(".")[2] for key in axes]
    names = ends if len(set(ends)) == len(ends) else list(axes)
    for backwards in itertools.product(*reversed(axes.values())):
        chosen, tree = backwards[::-1], root
        for key, value in zip(axes, chosen, strict=True):
            tree = merged(tree, _nested(key, value))
        label = "-".join(_label(name, value.plain()) for name, value in zip(names, chosen, strict=True))
        if (name := tree.value.get("name")) is not None and label:
            tree = merged(tree, _nested("name", Entry(f"{name.value}-{label}", name.place, name.text)))
        yield label, {key: value.plain() for key, value in zip(axes, chosen, strict=True)}, tree


def without_set(section: Entry, top: Entry, problems: list[Problem]) -> Entry:
    """Return a sweep without the keys that `top`, which is laid over its recipe, sets to a value.

    Appends to `problems` where `top` sets a part of what is swept as a whole.
    """
    left = {}
    for key, values in section.value.items():
        own = _setting(top, key)
        if own is None:
            left[key] = values
        elif own.place == values.place:
            problems.append(Problem(own.place, key, f"must be given once (given alone and as {SECTION}.{key})"))
        elif isinstance(own.value, dict):
            wrong = (
                f"must not be set in part where {SECTION}.{key} ({values.place}) sets it whole; write the sweep anew"
            )
            problems.append(Problem(own.place, key, f"{wrong}, or {SECTION}=null"))
    return Entry(left, section.place, section.text)


def refuse_equal(members: Sequence[Member]) -> None:
    """Raise UserError naming two members that would share a directory or have the same results."""
    names: set[str] = set()
    seen: dict[str, str] = {}
    for member in members:
        if member.name in names:
            raise UserError(f"{SECTION}: two members would share the directory {member.name}; name each value once")
        names.add(member.name)
        other = seen.setdefault(_results(member.config), member.name)
        if other != member.name:
            raise UserError(
                f"{SECTION}: {other} and {member.name} are the same: no result depends on what they differ in; leave "
                "one of them out"
            )


def write_sweep(folder: Path, members: Sequence[Member]) -> None:
    """List the members in the directory of their sweep, after those that it has already."""
    listed = _listed(folder)
    write_json(folder / SWEEP, {"members": listed | {member.name: dict(member.values) for member in members}})


def members_of(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the run directories of a sweep's members and their swept values, in order; none if it is no sweep's."""
    return {folder / name: values for name, values in _listed(folder).items()}


def is_member(run: Path) -> bool:
    """Return whether a run is listed as a member of a sweep, whose directory is the one above."""
    return run.absolute().name in _listed(run.absolute().parent)


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        members: dict[str, dict[str, Any]] = json.loads((folder / SWEEP).read_text())["members"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / SWEEP}: not a readable list of members ({error}); launch the sweep again"
        ) from error
    return members


def _axes(section: Entry, root: Entry, problems: list[Problem]) -> dict[str, list[Entry]]:
    """Return the values by key. A key that is set on the command line has that value alone, and members keep its name:
    one seed of a sweep is the same runs as among all seeds."""
    if not isinstance(section.value, dict):
        problems.append(Problem(section.place, SECTION, f"must be lists of values by key (given {section.text})"))
        return {}
    axes: dict[str, Entry] = {}
    for key, entry in section.value.items():
        if (wrong := _problem(key, entry)) is not None:
            problems.append(Problem(entry.place, f"{SECTION}.{key}", wrong))
        else:
            axes[key] = entry
    for key, entry in axes.items():
        for above in axes:
            if key.startswith(f"{above}."):
                wrong = f"must be given once ({SECTION}.{above} has it already)"
                problems.append(Problem(entry.place, f"{SECTION}.{key}", wrong))
    given = _on_command_line(root) or Entry({}, COMMAND_LINE, "")
    left = without_set(Entry(axes, section.place, section.text), given, problems)
    alone = {key: own for key in axes.keys() - left.value.keys() if (own := _whole(given, key)) is not None}
    return {key: [alone[key]] if key in alone else axes[key].value for key in axes if key in alone or key in left.value}


def _on_command_line(entry: Entry) -> Entry | None:
    """Return the part of a tree that was given there."""
    if not isinstance(entry.value, dict):
        return entry if entry.place == COMMAND_LINE else None
    parts = {name: part for name, inner in entry.value.items() if (part := _on_command_line(inner)) is not None}
    return Entry(parts, COMMAND_LINE, entry.text) if parts else None


def _setting(root: Entry, key: str) -> Entry | None:
    """Return what a tree sets `key` to, or null above it."""
    entry = root
    for name in key.split("."):
        if not isinstance(entry.value, dict):
            return entry
        if name not in entry.value:
            return None
        entry = entry.value[name]
    return entry


def _whole(root: Entry, key: str) -> Entry | None:
    """Return what a tree sets `key` itself to."""
    above, _, last = key.rpartition(".")
    section = _setting(root, above) if above else root
    return section.value.get(last) if section is not None and isinstance(section.value, dict) else None


def _problem(key: str, entry: Entry) -> str | None:
    if key == "name" or key not in all_keys():
        return "the members get names of their own" if key == "name" else explain_unknown(key.split("."), Config)[0]
    if not isinstance(entry.value, list) or not entry.value:
        return f"must be a list of values, at least one (given {entry.text})"
    return None


def _nested(key: str, value: Entry) -> Entry:
    entry = value
    for name in reversed(key.split(".")):
        entry = Entry({name: entry}, value.place, value.text)
    return entry


def _label(name: str, value: Any) -> str:
    """Return a part of a member's name: `reduction2`, `integration_pre`, `stages2_3`, `se_none`; a crop plan's is its
    own name."""
    value = _plan_name(value)
    if isinstance(value, Mapping):
        return "-".join(_label(key, inner) for key, inner in value.items()) or name
    items = [_plan_name(item) for item in value] if isinstance(value, list) else [value]
    words = "_".join(
        "none" if item is None else str(item).lower() if item is True or item is False else str(item) for item in items
    )
    name, words = (re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_") for text in (name, words))
    return f"{name}{words}" if words[:1].isdigit() else f"{name}_{words}".rstrip("_")


def _plan_name(value: Any) -> Any:
    return value["name"] if isinstance(value, Mapping) and {"name", "crops"} <= value.keys() else value


def _results(config: Config) -> str:
    """Return, as text, all of a recipe that a result depends on; of a file that it names, the path."""
    facts = identity(config, [name for name in Config.model_fields if name != "name"])
    for leaf in leaves():
        if IS_PATH in leaf.field.metadata and leaf.section != "data":
            facts[leaf.name] = operator.attrgetter(leaf.name)(config)
    return json.dumps(facts, sort_keys=True)
