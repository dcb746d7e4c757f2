"""The stages of a run that a changed recipe affects.

The recipe is compared with the run's last set-up, never with other content of the store.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.job_graph import Stages
from launch.longer import Longer, describe_longer
from launch.slurm.jobs import read_jobs
from pipeline.config.keys import field_at
from pipeline.config.reader import RUN_CONFIG, config_differences, read_run_config, refuse_old_run
from pipeline.config.schema import Config
from pipeline.config.section import IS_PATH
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.running.attempts import read_outcome
from pipeline.running.named_files import digest_of, recorded_digest
from pipeline.running.provenance import PROVENANCE
from pipeline.running.stage import Part, PlacedStage, place_stages
from pipeline.store.lock import lock_holder
from pipeline.store.seal import is_sealed
from pipeline.training.shorter import only_longer
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """A stage as it was when the run was last set up."""

    version: int
    key: str
    parts: Mapping[str, str]
    """Keys by part name."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """The effect of a recipe on a run that was set up with another one."""

    refusal: str | None
    """The differences, if work that is worth a question would be repeated."""
    note: str | None
    """One line, if a stage is made anew beside the old one."""


def describe_changes(run: Path, config: Config) -> Changes | None:
    """Compare a recipe with the last set-up of `run`. Returns None if nothing with work would be repeated.

    Only keys count: operations may change at any time, and so may everything in a stage that was not begun. Raises
    UserError if the run was made by version 0.1.
    """
    refuse_old_run(run)
    if not (run / RUN_CONFIG).exists():
        return None
    old = read_run_config(run)
    before, after = _recorded(run, old), place_stages(config, run, STAGES)
    changed = {name: stage for name, stage in after.items() if name in before and _changed_parts(stage, before[name])}
    begun = [name for name, stage in changed.items() if _has_work(run, stage, before[name])]
    if not begun:
        return None
    note = f"made anew, beside the old in {run}: {', '.join(begun)}"
    if all(changed[name].stage.beside for name in begun):
        return Changes(None, note)
    longer = _longer(config, after, before, begun)
    if longer is not None and longer.obstacle is None and _wants_only_more(old, config, changed, before, begun):
        rest = [name for name in begun if name != "train"]
        return Changes(None, longer.note + (f"; made anew, beside the old: {', '.join(rest)}" if rest else ""))
    kept = [name for name in after if name in before and name not in changed]
    lines = [f"{run} was set up with another recipe; this one differs in"]
    lines += [f"  {line}" for line in _differences(run, old, config, before, changed)]
    if longer is not None and longer.obstacle is not None:
        lines.append(f"the finished training cannot be gone on from: {longer.obstacle}")
    lines.append(f"stages that would begin anew, beside the old: {', '.join(changed)}")
    if kept:
        lines.append(f"stages that would be kept: {', '.join(kept)}")
    return Changes("\n".join(lines), note)


def _longer(config: Config, after: Stages, before: Mapping[str, StageRecord], begun: list[str]) -> Longer | None:
    """Describe how the run's training goes on, or return None if it is not a longer one of the same."""
    return describe_longer(config, after, before["train"].parts["train"]) if "train" in begun else None


def _wants_only_more(
    old: Config, new: Config, changed: Stages, before: Mapping[str, StageRecord], begun: list[str]
) -> bool:
    """Return whether the stages worth a question have changed by the number of epochs and the schedule alone."""
    asked = [changed[name].stage for name in begun if not changed[name].stage.beside]
    return all(
        stage.is_training
        and stage.version == before[stage.name].version
        and only_longer(stage.identity_of(old, None), stage.identity_of(new, None))
        for stage in asked
    ) and (old.freeze_bn.from_checkpoint, new.freeze_bn.from_checkpoint) == (None, None)


def stage_records(placed: Stages) -> dict[str, Any]:
    """Return the record of a run's stages, for the comparison with the next recipe, as plain values."""
    return {
        name: {"version": stage.stage.version, "key": stage.key, "parts": {part.name: part.key for part in stage.parts}}
        for name, stage in placed.items()
    }


def _recorded(run: Path, config: Config) -> dict[str, StageRecord]:
    """Return the stages of the run's last set-up; by its config if their record is not readable."""
    try:
        records = json.loads((run / PROVENANCE).read_text())["stages"]
        return {name: StageRecord(**fields) for name, fields in records.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        records = stage_records(place_stages(config, run, STAGES))
        return {name: StageRecord(**fields) for name, fields in records.items()}


def _has_work(run: Path, stage: PlacedStage, record: StageRecord) -> bool:
    """Return whether a changed part is sealed, at work, or has saved something; or the stage was submitted."""
    if any((job.stage, job.key) == (stage.name, record.key) for job in read_jobs(run)):
        return True
    for part in _changed_parts(stage, record):
        directory = run / f"{part.name}-{record.parts[part.name]}"
        if not stage.stage.is_training and _was_refused(directory):
            continue
        # Checkpoints and the scan's chunks are sealed as well.
        if is_sealed(directory) or lock_holder(directory) is not None or any(directory.rglob("*seal.json")):
            return True
    return False


def _was_refused(directory: Path) -> bool:
    """Return whether the recipe or the data were wrong for an unfinished part: correcting them needs no question."""
    if is_sealed(directory) or lock_holder(directory) is not None:
        return False
    outcome = read_outcome(directory)
    return outcome is not None and outcome.exit_code == EXIT_USER_ERROR


def _changed_parts(stage: PlacedStage, record: StageRecord) -> list[Part]:
    """Return the parts with another key than on record; one that is not on record is new."""
    return [part for part in stage.parts if record.parts.get(part.name, part.key) != part.key]


def _differences(
    run: Path, old: Config, new: Config, before: Mapping[str, StageRecord], changed: Stages
) -> Iterable[str]:
    """Yield a line for each difference that changed one of the `changed` stages, except those made beside the old."""
    asked = [stage for stage in changed.values() if not stage.stage.beside]
    lines = config_differences(old, new)
    found = [line for stage in asked for line in _of_stage(run, stage, before[stage.name], old, new, lines)]
    ordered = [line for line in lines if line in found]
    others = [line for line in dict.fromkeys(found) if line not in ordered]
    return [*ordered, *others] or [f"{stage.name}: {before[stage.name].key} -> {stage.key}" for stage in asked]


def _of_stage(
    run: Path, stage: PlacedStage, record: StageRecord, old: Config, new: Config, lines: list[str]
) -> Iterator[str]:
    if record.version != stage.stage.version:
        yield f"{stage.name}: stage version {record.version} -> {stage.stage.version}"
    for part in _changed_parts(stage, record):
        was, now = stage.stage.identity_of(old, part.split), part.identity
        names = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
        yield from (
            line for line in lines if any(f"{line.partition(':')[0]}.".startswith(f"{name}.") for name in names)
        )
        named_before, named_now = (set(_named_files(stage, config, part, run)) for config in (old, new))
        if named_before != named_now:
            yield from (line for line in lines if _names_files(line.partition(":")[0], stage))
        for path in sorted(named_before & named_now):
            if recorded_digest(Path(path), run) not in (None, digest_of(Path(path), run)):
                yield f"{path}: its content is another than it was"


def _named_files(stage: PlacedStage, config: Config, part: Part, run: Path) -> tuple[str, ...]:
    try:
        return stage.stage.files(config, part.split, run)
    except UserError:  # of the recipe before: what it named is gone
        return ()


def _names_files(key: str, stage: PlacedStage) -> bool:
    """Return whether a key names a file or folder and is in a section that the stage reads."""
    field = field_at(key.split("."))
    return field is not None and IS_PATH in field.metadata and key.partition(".")[0] in stage.stage.sections
