"""Where each stage of a run stands, read from its directory's files alone."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.ground.errors import EXIT_STOPPED, UserError
from pipeline.running.attempts import read_attempts
from pipeline.running.outcome import read_outcome
from pipeline.running.stage import PlacedStage
from pipeline.store.lock import lock_holder
from pipeline.store.manifest import read_manifest
from pipeline.tracking.wording import duration

Condition = Literal["done", "running", "stopped", "failed", "killed", "waiting", "to run", "queued", "requeued"]
"""queued: a job that SLURM has not started yet. requeued: one that was interrupted and will be started again."""


@dataclasses.dataclass(frozen=True)
class StageState:
    """What became of a stage so far."""

    condition: Condition
    """stopped, failed and killed have unfinished work, which the next start goes on with."""
    detail: str
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """A finished stage's own figures."""

    @property
    def is_unfinished(self) -> bool:
        """Whether there is work to go on with, and nobody at it."""
        return self.condition in ("stopped", "failed", "killed")


def stage_state(stage: PlacedStage, placed: Mapping[str, PlacedStage]) -> StageState:
    """The state of one stage among all stages of its run."""
    try:
        manifest = read_manifest(stage.directory)
    except UserError as error:
        return StageState("failed", str(error))
    if manifest is not None:
        return StageState("done", _finished(stage.directory, manifest.provenance["time"]), manifest.metrics)
    holder = lock_holder(stage.directory)
    attempts = read_attempts(stage.directory)
    if holder is not None:
        since = f" since {_clock(attempts[-1].start)}" if attempts else ""
        return StageState("running", f"{holder}{since}")
    outcome = read_outcome(stage.directory)
    if outcome is not None:
        condition: Condition = "stopped" if outcome.exit_code == EXIT_STOPPED else "failed"
        return StageState(condition, outcome.message)
    if attempts and attempts[-1].end is not None:
        return StageState("failed", attempts[-1].error or "ended without a manifest")
    if attempts:
        return StageState("killed", f"its process, started {_clock(attempts[-1].start)}, ended without a word")
    waits_for = [name for name in stage.inputs if not placed[name].is_done]
    if waits_for:
        return StageState("waiting", f"for {', '.join(waits_for)}")
    return StageState("to run", "its inputs are done" if stage.inputs else "nothing was done yet")


def last_checkpoint(directory: Path) -> tuple[int, float] | None:
    """Step of a training stage's newest checkpoint and the Unix time it was written; None where it has none."""
    latest = directory / "checkpoints" / "latest.json"
    try:
        name = json.loads(latest.read_text())["checkpoint"]
        return int(name.rpartition("-")[2]), latest.stat().st_mtime
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _finished(directory: Path, written: str) -> str:
    attempts = read_attempts(directory)
    # Nodes' clocks differ, so that a attempt may seem to end before it began.
    worked = [max(0.0, attempt.end - attempt.start) for attempt in attempts if attempt.end is not None]
    text = _clock(datetime.datetime.fromisoformat(written).timestamp())
    if not worked:
        return text  # done, and killed before it could say when it ended
    text = f"{text}, took {duration(sum(worked))}"
    return text if len(attempts) < 2 else f"{text} in {len(attempts)} starts"


def _clock(seconds: float) -> str:
    """Local time."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
