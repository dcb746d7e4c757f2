"""The runs of a command line: the members of a sweep, in directories below one, or a single run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.console import say
from launch.job_graph import Stages
from launch.run_directory import check_space, check_writable, default_run, refuse_changes, set_up
from pipeline.config.overrides import describe_overrides
from pipeline.config.reader import RUN_CONFIG, load_members
from pipeline.config.schema import Config
from pipeline.config.sweep import SECTION, Member, members_of, refuse_equal, write_sweep
from pipeline.ground.errors import UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.lock import in_turn


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The members of a sweep; a single run is the only member, without a name, in its own directory."""

    folder: Path
    members: Sequence[Member]

    @property
    def is_single(self) -> bool:
        """Whether it is a run of its own."""
        return not self.members[0].name

    def run_of(self, member: Member) -> Path:
        """Return the run directory of a member."""
        return self.folder / member.name


def read_sweep(recipes: Sequence[Path], overrides: Sequence[str], run: Path | None, seeds: Sequence[int] = ()) -> Sweep:
    """Read one recipe or several, each for all seeds if some are given, and say in full what the overrides set.

    Raises UserError as `load_members` does, or if the directory is already one of another kind.
    """
    overrides = [*overrides, *([f"sweep.seed={list(seeds)}"] if seeds else [])]
    members = [member for path in recipes for member in load_members(path, overrides)]
    for line in describe_overrides(overrides):
        say(line)
    first = members[0]
    name = first.config.name.removesuffix(f"-{first.name}")
    if len(recipes) > 1:
        members = [dataclasses.replace(member, name=member.config.name) for member in members]
        refuse_equal(members)
    if not members[0].name:
        folder = run or default_run(first.config)
        if members_of(folder):
            raise UserError(f"{folder}: the directory of a sweep; give another --run DIR to this run")
        return Sweep(folder, members)
    # What `run` makes of the recipe alone lies in runs/NAME.
    is_asked = len(recipes) > 1 or any(
        word.partition("=")[0].strip().partition(".")[0] == SECTION for word in overrides
    )
    sweep = Sweep(run or Path("runs") / (f"{name}-sweep" if is_asked else name), members)
    known = members_of(sweep.folder)
    own = (sweep.folder, *(place for member in members if (place := sweep.run_of(member)) not in known))
    for directory in own:
        if (directory / RUN_CONFIG).exists():
            raise UserError(f"{directory}: a run of its own; give another --run DIR to the sweep")
    return sweep


def set_up_runs(sweep: Sweep, runs: Iterable[tuple[Path, Config, Stages]], accept_changes: bool) -> None:
    """Set the runs up, each with the stages that are about to be made. Writes nothing if one of them is refused."""
    runs = list(runs)
    for run, config, _ in runs:
        refuse_changes(run, config, accept_changes)
    if not sweep.is_single:
        check_writable(sweep.folder)
        check_space(sweep.folder, [(config, stages.values()) for _, config, stages in runs])
        with in_turn(sweep.folder, StopFlag(), say):  # another launch may add members of its own
            write_sweep(sweep.folder, sweep.members)
    for run, config, stages in runs:
        set_up(run, config, stages.values(), accept_changes)
