"""From a recipe and `key=value` overrides to one frozen Config, or to all that is wrong with them at once."""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.config.document import Entry, Place, Problem, decode_document, merged
from pipeline.config.overrides import apply_override
from pipeline.config.problems import explain, in_order, take_out_unknown_keys
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.store.file import naming, write_bytes

RUN_CONFIG = "config.yaml"
_YAML_SUFFIXES = (".yaml", ".yml")
_PLAN_KEYS = (("train", "validation"), ("evaluate", "plans"))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The recipe at `path`, on top of those it extends, with the overrides on top of all.

    A recipe is a YAML 1.2 file. `extends: other.yaml` (relative to the file) takes everything from another recipe that
    this one does not set itself, key by key; lists are replaced whole. An override is `train.epochs=3`, or `epochs=3`
    where only one key ends so; its value is YAML too, except that text needs no quotes. Empty stands for null.
    A crop plan may be a YAML file of its own, named where the plan would stand: relative to the recipe, or in an
    override to the working directory. It becomes part of the config.

    Raises UserError with every mistake, each as `file:line: key: what must hold (given ...)`.
    """
    problems: list[Problem] = []
    sources: list[str] = []
    entry = _read_extended(path, problems, sources)
    for override in overrides:
        entry = apply_override(entry, override, problems)
    # Those that the recipes name are read; what is left was named on the command line.
    entry = _with_plan_files(entry, Path(), problems, sources)
    entry, unknown = take_out_unknown_keys(entry)
    problems += unknown
    try:
        config = Config.model_validate(entry.plain())
    except ValidationError as error:
        known = {(problem.place, problem.key) for problem in problems}
        problems += [problem for problem in explain(error, entry) if (problem.place, problem.key) not in known]
    if problems:
        raise UserError("\n".join(str(problem) for problem in in_order(problems, sources)))
    return config


def write_run_config(run: Path, config: Config) -> None:
    """Write RUN/config.yaml: every key with its value, defaults included."""
    with naming(run):
        try:
            run.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{run}: must be a folder, or a path where one can be made (given a file)") from error
    yaml = YAML()
    yaml.width = 120
    yaml.Representer = _Representer
    text = io.StringIO()
    yaml.dump(_in_flow_style(config.model_dump(mode="json")), text)
    write_bytes(run / RUN_CONFIG, text.getvalue().encode())


def read_run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config that a run was set up with; UserError if `run` is no run directory."""
    path = run / RUN_CONFIG
    if not path.is_file():
        raise UserError(
            f"{path}: must be there (this is not a run directory; "
            "`python -m launch run configs/RECIPE.yaml` sets one up and runs it)"
        )
    return load_config(path, overrides)


def config_differences(old: Config, new: Config) -> list[str]:
    """Every key whose value differs, as `train.epochs: 100 -> 90`; empty for equal configs.

    Of crop plans their names are told, and of plans that have the same name in both what differs in them.
    """
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if old == new:
        return []
    before, after = _by_name(old), _by_name(new)
    if before and after:
        lines = [f"{key}: {', '.join(before)} -> {', '.join(after)}"] if list(before) != list(after) else []
        return lines + [
            line
            for name, item in before.items()
            if name in after
            for line in _differences(item, after[name], f"{key}.{name}")
        ]
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]
    # Only the section of the chosen engine is there.
    names = [*old, *(name for name in new if name not in old)]
    return [
        line for name in names for line in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    ]


def _by_name(value: Any) -> dict[str, Any] | None:
    """The crop plans of a list, of which built-in ones are their names; None where `value` is no such list."""
    if not isinstance(value, list) or not all(
        isinstance(item, str) or (isinstance(item, dict) and "name" in item) for item in value
    ):
        return None
    return {item if isinstance(item, str) else item["name"]: item for item in value}


def _read_extended(path: Path, problems: list[Problem], sources: list[str], chain: tuple[Path, ...] = ()) -> Entry:
    """The file's entries on top of those of the file it extends, and so on; without their `extends`."""
    document = decode_document(_content(path), str(path))
    sources.append(str(path))
    problems += document.problems
    if document.root is None:
        raise UserError(f"{path}:1: the file is empty; a recipe has at least the sections data, model, optim ...")
    if not isinstance(document.root.value, dict):
        raise UserError(f"{document.root.place}: a recipe must be `key: value` lines (given {document.root.text})")
    entries = dict(document.root.value)
    extends = entries.pop("extends", None)
    root = Entry(entries, Place(str(path), 1), document.root.text)
    root = _with_plan_files(root, path.parent, problems, sources)
    if extends is None:
        return root
    if not isinstance(extends.value, str):
        raise UserError(f"{extends.place}: extends: must be the path of another recipe (given {extends.text})")
    base = Path(os.path.normpath(path.parent / extends.value))
    chain = (*chain, path)
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, base))
        raise UserError(f"{extends.place}: extends: must not lead back to a file that extends this one ({circle})")
    if not base.is_file():
        raise UserError(f"{extends.place}: extends: {_not_there(base, 'recipe')}")
    return merged(_read_extended(base, problems, sources, chain), root)


def _with_plan_files(root: Entry, folder: Path, problems: list[Problem], sources: list[str]) -> Entry:
    """The tree with the content of each file, relative to `folder`, that is named in the place of a crop plan."""
    sections = dict(root.value)
    for section, name in _PLAN_KEYS:
        within = sections[section].value if section in sections else None
        if not isinstance(within, dict) or name not in within:
            continue
        entry, key = within[name], f"{section}.{name}"
        if isinstance(entry.value, list):
            plans = [
                _plan_file(item, f"{key}[{number}]", folder, problems, sources)
                for number, item in enumerate(entry.value)
            ]
            entry = dataclasses.replace(entry, value=plans)
        else:
            entry = _plan_file(entry, key, folder, problems, sources)
        sections[section] = dataclasses.replace(sections[section], value={**within, name: entry})
    return dataclasses.replace(root, value=sections)


def _plan_file(entry: Entry, key: str, folder: Path, problems: list[Problem], sources: list[str]) -> Entry:
    """The content of the file that `entry` names; the entry itself where it names none."""
    if not isinstance(entry.value, str) or Path(entry.value).suffix not in _YAML_SUFFIXES:
        return entry
    path = Path(os.path.normpath(folder / entry.value))
    if not path.is_file():
        raise UserError(f"{entry.place}: {key}: {_not_there(path, 'crop plan')}")
    document = decode_document(_content(path), str(path))
    if document.root is None or not isinstance(document.root.value, dict):
        raise UserError(f"{path}:1: a crop plan must be `key: value` lines: name, crops")
    sources.append(str(path))
    problems.extend(document.problems)
    return Entry(document.root.value, Place(str(path), 1), document.root.text)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(_not_there(path, "recipe")) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _not_there(path: Path, kind: str) -> str:
    if path.is_dir():
        return f"{path} is a folder, a {kind} is a file"
    if not path.parent.is_dir():
        return f"{path}: no such file (there is no folder {path.parent})"
    recipes = sorted(file.name for file in path.parent.iterdir() if file.suffix in _YAML_SUFFIXES)
    close = difflib.get_close_matches(path.name, recipes, n=1) or [
        name for name in recipes if Path(name).stem == path.name
    ]
    if close:
        return f"{path}: no such file (did you mean {path.with_name(close[0])}?)"
    there = f"there are: {', '.join(recipes)}" if recipes else f"there are no {kind}s in this folder"
    return f"{path}: no such file ({there})"


class _Representer(RoundTripRepresenter):
    def represent_none(self, data: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")  # ruamel would leave the place empty


_Representer.add_representer(type(None), _Representer.represent_none)


def _in_flow_style(value: Any) -> Any:
    """Sections as blocks, lists of plain values in one line."""
    if isinstance(value, dict):
        return {name: _in_flow_style(item) for name, item in value.items()}
    if isinstance(value, list):
        items = CommentedSeq(_in_flow_style(item) for item in value)
        if not any(isinstance(item, dict) for item in value):
            items.fa.set_flow_style()
        return items
    return value
