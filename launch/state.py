"""The state of each stage of a run, from its directory's files alone."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.ground.errors import EXIT_DONE, EXIT_STOPPED
from pipeline.running.attempts import read_attempts, read_outcome, seconds_of
from pipeline.running.stage import PlacedStage
from pipeline.store.lock import lock_holder
from pipeline.store.seal import SEAL, BrokenSeal, Seal, read_seal
from pipeline.tracking.wording import duration
from pipeline.training.checkpoint_seal import CHECKPOINTS, newest_sealed

Condition = Literal["done", "running", "stopped", "failed", "killed", "waiting", "to run", "queued", "requeued"]
"""queued: a job that SLURM has not started yet. requeued: one that was interrupted and will be started again."""


@dataclasses.dataclass(frozen=True)
class StageState:
    """The state of a stage."""

    condition: Condition
    """stopped, failed and killed have unfinished work, which the next start resumes."""
    detail: str
    metrics: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Metrics of a finished stage, by part."""


def stage_state(stage: PlacedStage, placed: Mapping[str, PlacedStage]) -> StageState:
    """Return the state of one stage among all stages of its run."""
    try:
        seals = {part.name: read_seal(part.directory, "stage") for part in stage.parts}
    except BrokenSeal as error:
        return StageState("failed", str(error))
    sealed = {name: seal for name, seal in seals.items() if seal is not None}
    if len(sealed) == len(stage.parts):
        return StageState(
            "done", _finished(stage, sealed), {name: seal.about["metrics"] for name, seal in sealed.items()}
        )
    directory = stage.directory
    holder, attempts, outcome = lock_holder(directory), read_attempts(directory), read_outcome(directory)
    since = _clock(attempts[-1].start) if attempts else None
    if holder is not None:
        return StageState("running", f"{holder} since {since}" if since else holder)
    if outcome is not None and outcome.exit_code == EXIT_DONE:
        return StageState("failed", "its seal is gone")
    if outcome is not None:
        return StageState("stopped" if outcome.exit_code == EXIT_STOPPED else "failed", outcome.message)
    if attempts:
        return StageState("killed", f"its process, started {since}, ended without a word")
    waits_for = [name for name in stage.inputs if not placed[name].is_done]
    if waits_for:
        return StageState("waiting", f"for {', '.join(waits_for)}")
    return StageState("to run", "its inputs are done" if stage.inputs else "nothing was done yet")


def last_checkpoint(directory: Path) -> tuple[int, float] | None:
    """Return the step of a training stage's newest checkpoint and the Unix time of its seal, or None if it has none."""
    with contextlib.suppress(FileNotFoundError):  # it may be removed for a newer one meanwhile
        if (newest := newest_sealed(directory / CHECKPOINTS)) is not None:
            path, seal = newest
            return seal.about["global_step"], (path / SEAL).stat().st_mtime
    return None


def _finished(stage: PlacedStage, seals: Mapping[str, Seal]) -> str:
    attempts = [read_attempts(part.directory) for part in stage.parts]
    written = max(
        datetime.datetime.fromisoformat(seal.about["provenance"]["time"]).timestamp() for seal in seals.values()
    )
    if all(each.end is None for part in attempts for each in part):
        return _clock(written)  # done, and killed before it could record its end
    text = f"{_clock(written)}, took {duration(sum(map(seconds_of, attempts)))}"
    number = max(len(part) for part in attempts)
    return text if number < 2 else f"{text} in {number} attempts"


def _clock(seconds: float) -> str:
    """Format a local time."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
