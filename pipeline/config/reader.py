"""Read a recipe and `key=value` overrides into one frozen Config, or report all mistakes at once."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml.representer import SafeRepresenter

from pipeline.config.crop_plan import CropPlan
from pipeline.config.document import Entry, Problem, merged, read_document, yaml
from pipeline.config.overrides import apply_overrides
from pipeline.config.problems import validated
from pipeline.config.schema import Config
from pipeline.config.section import expanded
from pipeline.config.sweep import SECTION, Member, expand, members_of, refuse_equal, without_set
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from pipeline.store.file import naming, write_bytes

RUN_CONFIG = "config.yaml"
_STAGE_FILES_OF_0_1 = ("manifest.json", "lives.jsonl", "dataset.json")
_KEYS_OF_0_1 = re.compile(rb"^  (last_epochs|mean):.*\n", re.MULTILINE)
"""Keys in the config.yaml of 0.1, which names every key: `freeze_bn.last_epochs`, and `data.mean` before `input`
existed."""
_GONE = (("loader", "prefetch"),)
"""Keys of 0.2 that no result depended on: passed over in a run's own config.yaml, which names every key."""
_PLAN_KEYS = (("train", "validation"), ("evaluate", "plans"))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the recipe at `path`, on top of those it extends, with the overrides on top of all.

    A recipe is a YAML 1.2 file. `extends: other.yaml` (relative to the file) takes everything from another recipe that
    this one does not set itself, key by key; lists are replaced whole. An override is `train.epochs=3`, or `epochs=3`
    if only one key ends so; its value is YAML too, except that text needs no quotes. Empty stands for null.
    A crop plan may be a YAML file of its own, named where the plan would stand: relative to the recipe, or in an
    override to the working directory. It becomes part of the config.

    Raises UserError with every mistake, each as `file:line: key: what must hold (given ...)`; also for a sweep.
    """
    first, *others = load_members(path, overrides)
    if first.name:
        raise UserError(
            f"{path}: {SECTION}: a single run is wanted here, and this recipe is a sweep of {1 + len(others)}; add "
            f"{SECTION}=null, and the values of one of them"
        )
    return first.config


def load_members(path: Path, overrides: Sequence[str] = ()) -> list[Member]:
    """Read a recipe as `load_config` does, and expand its section `sweep`: `{optim.lr: [0.1, 0.2], seed: [1, 2]}`.

    An override may be `sweep.seed=[1,2]` too. Without a sweep the only member has no name. Raises UserError also if two
    members differ in nothing that a result depends on.
    """
    files = _Files()
    root = apply_overrides(files.read_recipe(path, ()), overrides, files.problems)
    # Those named by the recipes are read already; the others were named on the command line.
    files.put_in_plans(root, Path())
    members: list[Member] = []
    mistakes: dict[str, None] = {}
    for name, values, tree in list(expand(root, files.problems)):
        try:
            members.append(Member(name, values, validated(Config, tree, files.problems, files.read)))
        except UserError as error:
            mistakes |= dict.fromkeys(str(error).splitlines())
    if mistakes:
        raise UserError("\n".join(mistakes))
    refuse_equal(members)
    return members


def read_plan(path: Path) -> CropPlan:
    """Read a crop plan that is a YAML file of its own. Raises UserError with every mistake."""
    document = read_document(path, "crop plan")
    return validated(CropPlan, document.root, document.problems)


def write_run_config(run: Path, config: Config) -> None:
    """Write RUN/config.yaml: every key with its value, defaults included."""
    with naming(run):
        try:
            run.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{run}: must be a folder, or a path where one can be made (given a file)") from error
    writer = yaml()
    writer.width = 120
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.Representer = _Representer
    text = io.StringIO()
    writer.dump(config.model_dump(mode="json"), text)
    write_bytes(run / RUN_CONFIG, text.getvalue().encode())


def read_run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a run directory. Raises UserError if `run` is no run directory of this version."""
    refuse_old_run(run)
    path = run / RUN_CONFIG
    if not path.is_file():
        if members := members_of(run):
            raise UserError(
                f"{run}: the directory of a sweep, and a single run is wanted here; name one of its "
                f"{len(members)}, as {next(iter(members))}"
            )
        raise UserError(
            f"{path}: must be there (this is not a run directory; "
            f"`{command_line('run', 'configs/RECIPE.yaml')}` sets one up and runs it)"
        )
    return load_config(path, overrides)


def refuse_old_run(run: Path) -> None:
    """Raise UserError if `run` was made by version 0.1, whose runs this version cannot resume."""
    is_old = any(next(run.glob(f"*/{name}"), None) is not None for name in _STAGE_FILES_OF_0_1)
    if not is_old and (run / RUN_CONFIG).is_file():
        content = (run / RUN_CONFIG).read_bytes()
        is_old = _KEYS_OF_0_1.search(content) is not None and b"\ninput:\n" not in content
    if is_old:
        raise UserError(
            f"{run}: made by version 0.1, which this version cannot go on with; begin anew with another --run DIR, or "
            "finish it with the version that began it"
        )


def config_differences(old: Config, new: Config) -> list[str]:
    """Return every key whose value differs, as `train.epochs: 100 -> 90`.

    Of crop plans the names are given, and the differences of plans with the same name.
    """
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if old == new:
        return []
    lines = []
    before, after = _by_name(old), _by_name(new)
    if before and after:
        if list(before) != list(after):
            lines.append(f"{key}: {', '.join(before)} -> {', '.join(after)}")
        names = [name for name in before if name in after]
        old, new = before, after
    elif isinstance(old, dict) and isinstance(new, dict) and "crops" in old | new and old["name"] != new["name"]:
        return [f"{key}: {json.dumps(old['name'])} -> {json.dumps(new['name'])}"]
    elif isinstance(old, dict) and isinstance(new, dict):
        names = list(old | new)  # only the section of the chosen engine exists
    else:
        return [f"{key}: {json.dumps(old)} -> {json.dumps(new)}"]
    for name in names:
        lines += _differences(old.get(name), new.get(name), f"{key}.{name}".removeprefix("."))
    return lines


def _by_name(value: Any) -> dict[str, Any] | None:
    """Return the crop plans of a list by their names, as built-in ones are, or None for other values."""
    if not isinstance(value, list) or not all(
        isinstance(item, str) or (isinstance(item, dict) and "name" in item) for item in value
    ):
        return None
    return {item if isinstance(item, str) else item["name"]: item for item in value}


class _Files:
    """Reads recipes and crop plans, and collects the mistakes in them."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.problems: list[Problem] = []

    def read_recipe(self, path: Path, above: tuple[Path, ...], named_by: str = "") -> Entry:
        """Return the recipe on top of the one it extends, and so on; `above` are those that extend it."""
        root = self._read(path, "recipe", named_by)
        for section, name in _GONE if path.name == RUN_CONFIG else ():
            if (parent := root.value.get(section)) and isinstance(parent.value, dict):
                parent.value.pop(name, None)
        extends = root.value.pop("extends", None)
        self.put_in_plans(root, path.parent)
        if extends is None:
            return root
        if not isinstance(extends.value, str):
            raise UserError(f"{extends.place}: extends: must be the path of another recipe (given {extends.text})")
        base, above = Path(os.path.normpath(path.parent / extends.value)), (*above, path)
        if base.resolve() in [file.resolve() for file in above]:
            circle = " -> ".join(str(file) for file in (*above, base))
            raise UserError(f"{extends.place}: extends: must not lead back to a file that extends this one ({circle})")
        extended = self.read_recipe(base, above, f"{extends.place}: extends: ")
        if SECTION in root.value:  # as of a list, nothing is taken from the one below
            extended.value.pop(SECTION, None)
        elif (sweep := extended.value.get(SECTION)) is not None and isinstance(sweep.value, dict):
            extended.value[SECTION] = without_set(sweep, root, self.problems)
        return merged(extended, root)

    def put_in_plans(self, root: Entry, folder: Path) -> None:
        """Replace each file name in the place of a crop plan, relative to `folder`, by the file's content."""
        for section, name in (*_PLAN_KEYS, *((SECTION, ".".join(key)) for key in _PLAN_KEYS)):
            parent = root.value.get(section)
            entry = parent.value.get(name) if parent and isinstance(parent.value, dict) else None
            if entry:
                parent.value[name] = self._plan(entry, f"{section}.{name}", folder)

    def _plan(self, entry: Entry, key: str, folder: Path) -> Entry:
        """Return the plan, or list of plans, with the files' content in the place of their names."""
        if isinstance(entry.value, list):
            items = [self._plan(item, f"{key}[{number}]", folder) for number, item in enumerate(entry.value)]
            return Entry(items, entry.place, entry.text)
        if not isinstance(entry.value, str) or Path(entry.value).suffix not in (".yaml", ".yml"):
            return entry
        path = Path(os.path.normpath(folder / str(expanded(entry.value))))
        return self._read(path, "crop plan", f"{entry.place}: {key}: ")

    def _read(self, path: Path, kind: str, named_by: str) -> Entry:
        document = read_document(path, kind, named_by)
        self.read.append(str(path))
        self.problems += document.problems
        return document.root


class _Representer(SafeRepresenter):
    def represent_list(self, data: list[Any]) -> Any:
        """Write lists of plain values in one line."""
        flow = not any(isinstance(item, dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Representer.add_representer(list, _Representer.represent_list)
