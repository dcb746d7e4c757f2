"""The run directory: whose it is, whether it can hold the run, and what is written into it before any stage starts."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from launch.console import byte_size
from launch.estimate import TRAINING_STAGES, checkpoint_bytes, kept_checkpoints
from launch.job_graph import changed_stages, covers
from launch.slurm.jobs import JOBS
from launch.state import last_checkpoint
from pipeline.config.engines import ENGINES
from pipeline.config.reader import RUN_CONFIG, config_differences, read_run_config, write_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.running.provenance import collect_provenance
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.file import replacing, write_json
from pipeline.store.lock import lock_holder
from stages import STAGES

PROVENANCE = "provenance.json"
_OPERATIONS = ("engine", *ENGINES, "loader", "checkpoint", "tracking", "resources")


def default_run(config: Config) -> Path:
    """Where a recipe runs unless told otherwise."""
    return Path("runs") / config.name


def describe_changes(run: Path, config: Config) -> str | None:
    """How the config differs from the one that the run was begun with, where that changes a result; else None.

    How a run is carried out (engine, loader, checkpoint, tracking, resources) may change at any time, and anything
    while none of the stages that it concerns has made or saved something, is at work or was submitted.
    """
    if not (run / RUN_CONFIG).exists():
        return None
    old = read_run_config(run)
    differences = {line.partition(":")[0]: line for line in config_differences(old, config)}
    changed = changed_stages(old, config, list(differences), STAGES)
    if not changed or not _is_begun(run, old, changed):
        return None
    relevant = [line for key, line in differences.items() if not _is_operation(key)]
    kept = [spec.name for spec in STAGES if spec.is_active(config) and spec.name not in changed]
    lines = [f"{run} was set up with another config; this one differs in", *(f"  {line}" for line in relevant)]
    lines.append(f"stages that would start anew, in new directories: {', '.join(changed)}")
    if kept:
        lines.append(f"stages that would be kept: {', '.join(kept)}")
    return "\n".join(lines)


def _is_begun(run: Path, config: Config, names: Collection[str]) -> bool:
    """Whether somebody works on the run, or any of the config's stages `names` has work that is worth a question."""
    if (run / JOBS).exists():
        return True
    try:
        stages = place_stages(config, run, STAGES)
    except UserError:  # a file that it names is gone, so nobody can tell
        return True
    if any(lock_holder(stage.directory) is not None for stage in stages.values()):
        return True
    concerned = [stage for name, stage in stages.items() if name in names]
    return any(stage.is_done or last_checkpoint(stage.directory) is not None for stage in concerned)


def _is_operation(key: str) -> bool:
    return key.partition(".")[0] in _OPERATIONS and not any(covers(spec, key) for spec in STAGES)


def set_up(run: Path, config: Config, stages: Iterable[PlacedStage], accept_changes: bool) -> None:
    """Write the resolved config and the provenance. UserError where the run is another config's, cannot be written, or
    would not fit on the disk."""
    changes = describe_changes(run, config)
    if changes is not None and not accept_changes:
        raise UserError(
            f"{changes}\ngive another --run DIR to keep both runs, or --accept-changes to go on in this one"
        )
    _check_writable(run)
    _check_space(run, config, stages)
    write_run_config(run, config)
    write_json(run / PROVENANCE, collect_provenance())


def _check_writable(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        with replacing(run / "writable") as probe:
            probe.touch()
        (run / "writable").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run}: cannot be made or written ({error.strerror}); choose another --run DIR") from error


def _check_space(run: Path, config: Config, stages: Iterable[PlacedStage]) -> None:
    """What the checkpoints will need, less what they already take; one more is there while it is being written."""
    needed = 0
    for stage in stages:
        if stage.name in TRAINING_STAGES and not stage.is_done:
            taken = sum(file.stat().st_size for file in stage.directory.rglob("*") if file.is_file())
            needed += max(0, (kept_checkpoints(config) + 1) * checkpoint_bytes(config) - taken)
    free = shutil.disk_usage(run).free
    if needed > free:
        raise UserError(
            f"{run}: the checkpoints will need {byte_size(needed)} (each {byte_size(checkpoint_bytes(config))}, "
            f"{kept_checkpoints(config)} kept by each training stage and one being written), and {byte_size(free)} "
            "are free there; free some space, choose another --run DIR, or lower checkpoint.keep_last"
        )
