"""The job graph: the stages of a run that have to run, and their dependencies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from pipeline.running.stage import PlacedStage

Stages = Mapping[str, PlacedStage]


def choose_stages(
    placed: Stages,
    only: str | None,
    first: str | None,
    recipe: tuple[str | Path, ...],
    command: str = "run",
    coming: Collection[str] = (),
) -> Stages:
    """Return the chosen stages in order: all, `only` one, or those from `first` on.

    Raises UserError if one of them is unknown, or needs another that is neither done nor among those that are `coming`.
    `recipe` is the part of the command line after `command`, for the command that makes what is missing.
    """
    if only is not None:
        chosen = {only: _stage(placed, only, "--only")}
    elif first is not None:
        _stage(placed, first, "--from")
        names = list(placed)
        chosen = {name: placed[name] for name in names[names.index(first) :]}
    else:
        return placed
    missing = _missing(chosen, placed, coming)
    if missing:
        lines = [
            f"stage '{next(iter(chosen))}' needs what {_listed(missing)} would make, and that is not there yet; run"
        ]
        lines += [f"  {command_line(command, *recipe, '--only', name)}" for name in missing]
        raise UserError("\n".join(lines))
    return chosen


def _stage(stages: Stages, name: str, option: str) -> PlacedStage:
    if name not in stages:
        raise UserError(f"{option}: this recipe needs no stage '{name}' (its stages: {', '.join(stages)})")
    return stages[name]


def _missing(chosen: Stages, placed: Stages, coming: Collection[str]) -> list[str]:
    """Return the unfinished stages outside `chosen` that it reads, or that must run before those it reads."""
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
