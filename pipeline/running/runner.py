"""The attempt of one stage process: check its inputs, lock its directory, run it, declare it done, and end with the code
that says how it went."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.ground.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    StopRequested,
    TrainingDiverged,
    UserError,
)
from pipeline.ground.gc_pause import paused_gc
from pipeline.ground.ranks import Ranks, read_ranks
from pipeline.ground.stop import StopFlag, stop_with_parent
from pipeline.running.attempts import recorded_attempt
from pipeline.running.context import StageContext, StageResult
from pipeline.running.outcome import Outcome, clear_outcome, write_outcome
from pipeline.running.provenance import collect_provenance
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.file import naming, remove_leftovers
from pipeline.store.lock import DirectoryBusy, exclusive
from pipeline.store.manifest import Manifest, describe_outputs, read_manifest, verify_outputs, write_manifest
from pipeline.tracking.events import EventLog
from pipeline.tracking.listeners import listening
from stages import STAGES

COMPILED = "compiled"
"""Folder of a run directory that keeps what torch.compile made for it."""


def run_stage(name: str, config: Config, run: Path) -> int:
    """Run one stage of `run` in this process; returns the exit code of the contract, with the message printed."""
    ranks = read_ranks()
    stop = StopFlag()
    stop.install()
    if "SENET154_LAUNCHER" in os.environ:
        stop_with_parent()
    placed: PlacedStage | None = None
    try:
        placed = _placed_stage(name, config, run)
        if placed.is_done:
            _say(ranks, f"{name}: already done in {placed.directory}")
            return EXIT_DONE
        _run(placed, config, run, ranks, stop)
    except (UserError, TrainingDiverged, StopRequested, Exception) as error:
        outcome = _outcome(error, ranks)
        is_first = True
        # Who is refused at the door leaves no note in a directory where another process is at work.
        if placed is not None and placed.directory.exists() and not isinstance(error, DirectoryBusy):
            with contextlib.suppress(UserError):
                is_first = write_outcome(placed.directory, outcome)
        _explain(name, error, outcome, ranks, is_first)
        # Ranks that stop together leave with 0, or their launcher would kill those that are a moment later.
        together = outcome.exit_code == EXIT_STOPPED and ranks.world_size > 1
        return EXIT_DONE if together else outcome.exit_code
    return EXIT_DONE


def _placed_stage(name: str, config: Config, run: Path) -> PlacedStage:
    placed = place_stages(config, run, STAGES)
    if name not in placed:
        raise UserError(f"this config has no stage '{name}' (it has: {', '.join(placed)})")
    return placed[name]


def _run(placed: PlacedStage, config: Config, run: Path, ranks: Ranks, stop: StopFlag) -> None:
    with naming(placed.directory):
        placed.directory.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(placed, config, run, ranks)
    if config.execution.compile:
        # By default that is in /tmp, where a attempt that comes back on another node does not find it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((run / COMPILED).absolute()))
    with contextlib.ExitStack() as stack:
        if ranks.is_main:
            stack.enter_context(exclusive(placed.directory))
            clear_outcome(placed.directory)
            remove_leftovers(placed.directory)
            stack.enter_context(recorded_attempt(placed.directory, ranks.world_size))
            listeners = stack.enter_context(listening(config, placed, run))
            events = EventLog(placed.directory, listeners)
        else:
            events = EventLog(None)
        stack.callback(events.close)
        context = StageContext(config, run, placed.directory, inputs, ranks, events, stop)
        with paused_gc():
            stage = importlib.import_module(f"stages.{placed.name}")
        result: StageResult = stage.run(context)
        if ranks.is_main:
            _finish(placed, result)
        if placed.spec.distributed:
            context.collective.barrier()
            context.collective.close()


def _inputs(placed: PlacedStage, config: Config, run: Path, ranks: Ranks) -> dict[str, Path]:
    """Directories of the input stages; UserError unless each is done and holds what its manifest says."""
    everything = place_stages(config, run, STAGES)
    directories = {}
    for name in placed.inputs:
        directory = everything[name].directory
        manifest = read_manifest(directory)
        if manifest is None:
            raise UserError(
                f"stage '{name}' is not done yet ({directory} has no manifest); "
                f"run it first: python -m stages {name} --run {run}"
            )
        if ranks.is_main:
            verify_outputs(directory, manifest)
        directories[name] = directory
    return directories


def _finish(placed: PlacedStage, result: StageResult) -> None:
    manifest = Manifest(
        stage=placed.name,
        key=placed.key,
        inputs=placed.input_keys,
        outputs=describe_outputs(placed.directory, result.outputs),
        config=placed.config_part,
        provenance=collect_provenance(),
        metrics=result.metrics,
    )
    write_manifest(placed.directory, manifest)


def _outcome(error: Exception, ranks: Ranks) -> Outcome:
    if isinstance(error, UserError):
        return Outcome(EXIT_USER_ERROR, str(error), ranks.rank)
    if isinstance(error, StopRequested):
        return Outcome(EXIT_STOPPED, str(error), ranks.rank)
    return Outcome(EXIT_FAILED, str(error) or type(error).__name__, ranks.rank)


def _explain(name: str, error: Exception, outcome: Outcome, ranks: Ranks, is_first: bool) -> None:
    """One message, from the rank where the trouble began; what it then does to the others is not worth a word."""
    # A user's mistake can show before the main rank has cleared away an earlier attempt's note.
    if not is_first and not (isinstance(error, UserError) and ranks.is_main):
        return
    if not isinstance(error, UserError | StopRequested | TrainingDiverged):
        traceback.print_exception(error)
    print(f"{name}: {outcome.message}", file=sys.stderr, flush=True)


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_main:
        print(text, flush=True)
