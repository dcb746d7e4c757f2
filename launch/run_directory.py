"""The run directory: whose it is, whether it can hold the run, and its files from before the first stage."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from launch.changes import Changes, describe_changes, stage_records
from launch.console import byte_size, say
from launch.estimate import checkpoint_bytes, kept_checkpoints
from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.config.sweep import is_member
from pipeline.ground.errors import UserError
from pipeline.running.named_files import record_files
from pipeline.running.named_weights import keep_weights
from pipeline.running.provenance import PROVENANCE, collect_provenance
from pipeline.running.stage import PlacedStage, parts_of, place_stages
from pipeline.store.file import replacing, write_json
from stages import STAGES


def default_run(config: Config) -> Path:
    """Return the default run directory of a recipe; under the agent of a W&B sweep, one for each of its runs."""
    run_id = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    return Path("runs") / (config.name if run_id is None else f"{config.name}-{run_id}")


def refuse_changes(run: Path, config: Config, accept_changes: bool) -> Changes | None:
    """Compare the recipe with the run's last one. Raises UserError if the run has work of another recipe and the
    changes are not accepted, or if it was made by version 0.1."""
    changes = describe_changes(run, config)
    if changes is not None and changes.refusal is not None and not accept_changes:
        raise UserError(
            f"{changes.refusal}\ngive another --run DIR to keep both runs, or --accept-changes to go on in this one"
        )
    return changes


def set_up(run: Path, config: Config, stages: Iterable[PlacedStage], accept_changes: bool) -> None:
    """Write the resolved config, the digests of the files that it names, and the provenance; link a sweep's stages.

    `stages` are those that are about to be made. Raises UserError as `refuse_changes` does, or if the run cannot be
    written or is too large for the disk.
    """
    changes = refuse_changes(run, config, accept_changes)
    check_writable(run)
    check_space(run, [(config, stages)])
    if changes is not None and changes.note is not None:
        say(changes.note)
    placed = place_stages(config, run, STAGES)
    for key, name in (("evaluate.weights", config.evaluate.weights), ("model.weights", config.model.weights)):
        if name is not None:
            keep_weights(name, run, key)
    record_files(_named_files(placed.values(), config, run), run)
    write_json(run / PROVENANCE, collect_provenance() | {"stages": stage_records(placed)})
    write_run_config(run, config)
    if is_member(run):
        for part in parts_of(placed).values():
            _share(part.directory)


def _share(directory: Path) -> None:
    """Make a stage's directory a link to the one beside its run: in a sweep, members with the same key meet there."""
    (directory.parent.parent / directory.name).mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        directory.symlink_to(Path("..") / directory.name)


def _named_files(stages: Iterable[PlacedStage], config: Config, run: Path) -> list[Path]:
    parts = ((stage.stage, part.split) for stage in stages for part in stage.parts)
    return [Path(path) for stage, split in parts for path in stage.files(config, split, run)]


def check_writable(run: Path) -> None:
    """Make a directory if it is not there. Raises UserError if it cannot be made or written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        with replacing(run / "writable") as probe:
            probe.touch()
        (run / "writable").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{run}: cannot be made or written ({error.strerror}); choose another --run DIR") from error


def check_space(run: Path, stages_to_do: Iterable[tuple[Config, Iterable[PlacedStage]]]) -> None:
    """Check that the remaining checkpoints have room on the disk, and one more of each training while it is written.

    Raises UserError with the numbers. What several runs share counts once.
    """
    needed: dict[str, int] = {}
    sizes = [(config, checkpoint_bytes(config), stages) for config, stages in stages_to_do]
    for config, size, stages in sizes:
        for stage in stages:
            if stage.stage.is_training and not stage.is_done:
                taken = sum(file.stat().st_size for file in stage.directory.rglob("*") if file.is_file())
                needed[stage.key] = max(0, (kept_checkpoints(config) + 1) * size - taken)
    total, free = sum(needed.values()), shutil.disk_usage(run).free
    if total > free:
        config, size, _ = sizes[0]
        raise UserError(
            f"{run}: the checkpoints will need {byte_size(total)} (each {byte_size(size)}, {kept_checkpoints(config)} "
            f"kept by each training stage and one being written), and {byte_size(free)} are free there; free some "
            "space, choose another --run DIR, or lower checkpoint.keep_last"
        )
