"""Declarations and directories of stages. A directory's name covers everything that its result depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.config.identity import identity, key_of
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.named_files import digest_of
from pipeline.store.lock import DirectoryBusy, busy_message, lock_holder
from pipeline.store.seal import is_sealed

Identity = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Default resources of a stage's job on a cluster, unless the profile sets them."""

    processes: Literal["one", "as training"] = "one"
    """as training: one process for each GPU of the training's shape."""
    minutes: int = 60


@dataclasses.dataclass(frozen=True)
class Stage:
    """The declaration of a stage; its code is the module `stages.<name>`."""

    name: str
    summary: str
    version: int
    """Raised whenever the code changes the result for the same config and inputs."""
    sections: tuple[str, ...]
    """Sections of the config, or single top-level keys, whose result fields it reads. It can read no others."""
    inputs: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Input parts (see `Part`): `prepare-train`, `build`."""
    files: Callable[[Config, str | None, Path], tuple[str, ...]] = lambda config, split, run: ()
    """Files and directories that the config of a run names and whose content counts."""
    splits: tuple[str, ...] = ()
    """Splits of the images with a part each, made as needed; empty: a single part."""
    narrow: Callable[[Identity, str], Identity] = lambda found, split: found
    """Restrict the sections' identity to one split."""
    is_active: Callable[[Config], bool] = lambda config: True
    is_goal: bool = False
    """Whether it is wanted for itself, and not only as another stage's input."""
    is_distributed: bool = False
    """Whether it runs as several processes."""
    epochs: Callable[[Config], tuple[int, int]] | None = None
    """Numbers of epochs completed before and after its training, or None if it does not train."""
    beside: bool = False
    """Whether a changed recipe makes a new one beside the old without being asked. Otherwise the old work is worth a
    question."""
    shape: Shape = Shape()

    @property
    def is_training(self) -> bool:
        """Whether it has optimizer steps and checkpoints."""
        return self.epochs is not None

    def identity_of(self, config: Config, split: str | None) -> Identity:
        """Return the config fields that a part's result depends on, by dotted name."""
        found = identity(config, self.sections)
        return found if split is None else self.narrow(found, split)


@dataclasses.dataclass(frozen=True)
class Part:
    """A directory made by a stage: its only one, or one for each split."""

    name: str
    """`train`, `prepare-val`."""
    split: str | None
    key: str
    """Ten hexadecimal digits of a hash over everything that the result depends on; they end the directory's name."""
    version: int
    """Version of the stage."""
    directory: Path
    inputs: Mapping[str, str]
    """Names and keys of the input parts."""
    identity: Identity

    @property
    def is_done(self) -> bool:
        """Whether it is sealed."""
        return is_sealed(self.directory)

    @property
    def is_started(self) -> bool:
        """Whether the directory holds unfinished work."""
        return self.directory.exists() and not self.is_done

    @property
    def is_shared(self) -> bool:
        """Whether the directory is a sweep's, where others of its runs may be at work."""
        return self.directory.is_symlink()

    @property
    def place(self) -> Path:
        """The directory itself: that of a sweep if this run has but a link to it."""
        return self.directory.resolve() if self.is_shared else self.directory


def refuse_busy(part: Part) -> None:
    """Raise DirectoryBusy if another process works on an unfinished part, except in a sweep, where one waits for it."""
    holder = None if part.is_done or part.is_shared else lock_holder(part.directory)
    if holder is not None:
        raise DirectoryBusy(busy_message(part.directory, holder))


@dataclasses.dataclass(frozen=True)
class PlacedStage:
    """A stage of one run; keys and directories are known before anything has run."""

    stage: Stage
    parts: tuple[Part, ...]
    inputs: tuple[str, ...]
    """Names of the input stages."""

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name

    @property
    def key(self) -> str:
        """Key of the part, or a hash over those of all parts."""
        return self.parts[0].key if len(self.parts) == 1 else key_of([part.key for part in self.parts])

    @property
    def current(self) -> Part:
        """The next part to make; the last one if all are done."""
        return next((part for part in self.parts if not part.is_done), self.parts[-1])

    @property
    def directory(self) -> Path:
        """Directory of the current part."""
        return self.current.directory

    @property
    def is_done(self) -> bool:
        """Whether every part is sealed."""
        return all(part.is_done for part in self.parts)

    @property
    def is_started(self) -> bool:
        """Whether any part holds unfinished work."""
        return not self.is_done and any(part.directory.exists() for part in self.parts)


def place_stages(config: Config, run: Path, stages: Sequence[Stage]) -> dict[str, PlacedStage]:
    """Place the goals of a recipe and all their inputs, by name, in the order of the declarations.

    A key is a hash of the stage's name and version, the identity of its sections, the content of the files that the
    config names, and the keys of its inputs. So a directory never holds another recipe's work, and one without a seal
    is that part's own unfinished work.
    """
    active = {stage.name: stage for stage in stages if stage.is_active(config)}
    owner = {name: stage for stage in active.values() for name in part_names(stage)}
    wanted: dict[str, set[str]] = {stage.name: set(part_names(stage)) for stage in active.values() if stage.is_goal}
    queue = list(wanted)
    while queue:
        for name in active[queue.pop()].inputs(config):
            if name not in owner:
                raise UserError(f"this recipe needs '{name}', which no stage of it makes")
            if owner[name].name not in wanted:
                queue.append(owner[name].name)
            wanted.setdefault(owner[name].name, set()).add(name)
    placed: dict[str, PlacedStage] = {}
    keys: dict[str, str] = {}
    for name, stage in active.items():
        if name in wanted:
            placed[name] = _place(stage, config, run, wanted[name], keys, owner)
            keys |= {part.name: part.key for part in placed[name].parts}
    return placed


def parts_of(placed: Mapping[str, PlacedStage]) -> dict[str, Part]:
    """Return the parts of all stages, by name."""
    return {part.name: part for stage in placed.values() for part in stage.parts}


def part_names(stage: Stage) -> tuple[str, ...]:
    """Return the names of all possible parts of a stage."""
    return tuple(f"{stage.name}-{split}" for split in stage.splits) or (stage.name,)


def _place(
    stage: Stage, config: Config, run: Path, wanted: set[str], keys: Mapping[str, str], owner: Mapping[str, Stage]
) -> PlacedStage:
    inputs = {name: keys[name] for name in stage.inputs(config)}
    parts = []
    for name, split in zip(part_names(stage), stage.splits or (None,), strict=True):
        if name not in wanted:
            continue
        own = stage.identity_of(config, split)
        files = [digest_of(Path(path), run) for path in stage.files(config, split, run)]
        key = key_of(stage.name, split, stage.version, own, files, inputs)
        parts.append(Part(name, split, key, stage.version, run / f"{name}-{key}", inputs, own))
    return PlacedStage(stage, tuple(parts), tuple(dict.fromkeys(owner[name].name for name in inputs)))
