"""Which of a run's stages have to run: those that its last stage reads, and what they read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from launch.command import command_line
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.stage import PlacedStage, StageSpec

Stages = Mapping[str, PlacedStage]


def needed_stages(placed: Stages) -> dict[str, PlacedStage]:
    """The last stage and everything it is made from, in pipeline order.

    A recipe that evaluates a given weight file needs no training, and one that freezes a given checkpoint no train.
    """
    names = list(placed)
    needed = {names[-1]}
    for name in reversed(names):
        if name in needed:
            needed.update(placed[name].inputs)
    return {name: stage for name, stage in placed.items() if name in needed}


def choose_stages(
    placed: Stages,
    only: str | None,
    first: str | None,
    recipe: tuple[str | Path, ...],
    command: str = "run",
    coming: Collection[str] = (),
) -> Stages:
    """The stages to see to, in order. UserError where one of them is unknown, or needs another that is neither done
    nor among those that are `coming`.

    `recipe` is what stands after `command` on the command line, for the command that makes what is missing.
    """
    needed = needed_stages(placed)
    if only is not None:
        chosen = {only: _stage(placed, only, "--only")}
    elif first is not None:
        _stage(needed, first, "--from")
        names = list(needed)
        chosen = {name: needed[name] for name in names[names.index(first) :]}
    else:
        return needed
    missing = _missing(chosen, placed, coming)
    if missing:
        lines = [
            f"stage '{next(iter(chosen))}' needs what {_listed(missing)} would make, and that is not there yet; run"
        ]
        lines += [f"  {command_line(command, *recipe, '--only', name)}" for name in missing]
        raise UserError("\n".join(lines))
    return chosen


def changed_stages(old: Config, new: Config, changed_keys: list[str], specs: tuple[StageSpec, ...]) -> list[str]:
    """Stages of the new config whose result may differ from the old config's, in pipeline order."""
    changed: list[str] = []
    for spec in specs:
        if not spec.is_active(new):
            continue
        inputs = spec.inputs(new)
        is_same = (
            spec.is_active(old)
            and inputs == spec.inputs(old)
            and spec.files(new) == spec.files(old)
            and not any(covers(spec, key) for key in changed_keys)
            and not any(name in changed for name in inputs)
        )
        if not is_same:
            changed.append(spec.name)
    return changed


def covers(spec: StageSpec, key: str) -> bool:
    """Whether the config's `key` (`optim.lr`) can change the stage's result."""
    return any(key == part or key.startswith(f"{part}.") for part in spec.config_keys)


def _stage(stages: Stages, name: str, option: str) -> PlacedStage:
    if name not in stages:
        raise UserError(f"{option}: this recipe needs no stage '{name}' (its stages: {', '.join(stages)})")
    return stages[name]


def _missing(chosen: Stages, placed: Stages, coming: Collection[str]) -> list[str]:
    """Stages outside `chosen` that are not done and that it reads, or that must run before those it reads."""
    missing: set[str] = set()
    queue = [name for stage in chosen.values() if not stage.is_done for name in stage.inputs]
    while queue:
        name = queue.pop()
        if name not in chosen and name not in missing and name not in coming and not placed[name].is_done:
            missing.add(name)
            queue += placed[name].inputs
    return [name for name in placed if name in missing]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
