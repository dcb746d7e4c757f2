"""One process of a stage, from its start to its exit code.

It checks the inputs, locks the directory, runs the stage, and seals the result.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.config.view import view
from pipeline.ground.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    StartAbandoned,
    StartFailed,
    StopRequested,
    TrainingDiverged,
    UserError,
)
from pipeline.ground.gc_pause import paused_gc
from pipeline.ground.interpreter import SOURCE
from pipeline.ground.printing import print_line
from pipeline.ground.ranks import Ranks, read_ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.attempts import NOT_SAVED, Outcome, note_end, note_start
from pipeline.running.context import StageContext, StageResult
from pipeline.running.named_weights import BEST, find_weights
from pipeline.running.provenance import collect_provenance, git_state
from pipeline.running.stage import Part, PlacedStage, Stage, parts_of, place_stages
from pipeline.store.file import explain, remove_leftovers
from pipeline.store.lock import DirectoryBusy, exclusive, in_turn
from pipeline.store.seal import BrokenSeal, Seal, read_seal, seal_directory, verify_files
from pipeline.tracking.events import EventLog
from pipeline.tracking.listeners import listening
from pipeline.tracking.tracked import Tracked
from pipeline.training.checkpoint_seal import CHECKPOINTS, newest_sealed

COMPILED = "compiled"
"""Folder of a run directory for the cache of torch.compile."""


def run_stage(name: str, config: Config, run: Path, stages: Sequence[Stage]) -> int:
    """Run one stage of `run` in this process, part by part. Returns the exit code of the contract, after printing the
    message."""
    ranks = read_ranks()
    stop = StopFlag()
    stop.install()
    part: Part | None = None
    try:
        placed = place_stages(config, run, stages)
        if name not in placed:
            raise UserError(f"this config has no stage '{name}' (it has: {', '.join(placed)})")
        if placed[name].is_done:
            _say(ranks, f"{name}: already done in {placed[name].directory}")
        for part in placed[name].parts:
            if not part.is_done:
                _run(placed, name, part, config, run, ranks, stop)
    except (Exception, KeyboardInterrupt) as error:
        outcome = _outcome(error, part, ranks)
        # The main rank reports that the part's folder was removed.
        is_first = ranks.is_main or part is None or part.directory.is_dir()
        # A refused attempt leaves no note in a directory in which another process works.
        has_outcome = not isinstance(error, DirectoryBusy | StartAbandoned)
        if part is not None and part.directory.is_dir() and has_outcome:
            with contextlib.suppress(OSError):
                is_first = note_end(part.directory, outcome)
        _explain(name, error, outcome, ranks, is_first)
        # Ranks that stop together exit with 0, or their launcher would kill slower ones.
        together = outcome.exit_code == EXIT_STOPPED and ranks.world_size > 1
        return EXIT_DONE if together else outcome.exit_code
    return EXIT_DONE


def _run(
    placed: Mapping[str, PlacedStage], name: str, part: Part, config: Config, run: Path, ranks: Ranks, stop: StopFlag
) -> None:
    stage = placed[name].stage
    part.directory.mkdir(parents=True, exist_ok=True)
    inputs = {each: parts_of(placed)[each].directory for each in part.inputs}
    seals = _sealed_inputs(placed, part, run, ranks)
    if config.execution.compile:
        # The default is in /tmp, where an attempt that resumes on another node does not find it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((run / COMPILED).absolute()))
    with contextlib.ExitStack() as stack:
        if ranks.is_main:
            stack.enter_context(_turn(part, ranks, stop))
            if part.is_done:
                _say(ranks, f"{name}: done by another process in {part.place}")
                return
            remove_leftovers(part.directory)
            note_start(part.directory, ranks)
            tracked = _tracked(part, stage, config, run, inputs, seals)
            events = EventLog(part.directory, stack.enter_context(listening(config.tracking, tracked)))
        else:
            events = EventLog(None)
        stack.callback(events.close)
        context = StageContext(
            config=view(config, stage.sections),
            run=run,
            part=part,
            inputs=inputs,
            seals=seals,
            siblings={each.name: each for each in placed[name].parts},
            ranks=ranks,
            events=events,
            stop=stop,
        )
        with paused_gc():
            module = importlib.import_module(f"stages.{name}")
        result: StageResult = module.run(context)
        if ranks.is_main:
            events.position()  # the pending rest of the journal, before the seal
            _seal(part, stage, result)
            note_end(part.directory, Outcome(EXIT_DONE, "done", ranks.rank))
        if stage.is_distributed:
            context.collective.barrier()
            context.collective.close()


def _turn(part: Part, ranks: Ranks, stop: StopFlag) -> contextlib.AbstractContextManager[None]:
    """Hold the part's lock, in a sweep once it is free. For several processes the launcher waits, before they start."""
    if part.is_shared and ranks.world_size == 1:
        return in_turn(part.directory, stop, lambda text: _say(ranks, f"{part.name}: {text}"))
    return exclusive(part.directory)


def _sealed_inputs(placed: Mapping[str, PlacedStage], part: Part, run: Path, ranks: Ranks) -> dict[str, Seal]:
    """Return the seals of the input parts.

    Raises UserError unless each is done, matches its seal, and all were made from the same images.
    """
    seals: dict[str, Seal] = {}
    images: dict[str, tuple[str, Path]] = {}
    owners = {each.name: stage.name for stage in placed.values() for each in stage.parts}
    for name in part.inputs:
        directory = parts_of(placed)[name].directory
        try:
            seal = read_seal(directory, "stage")
            if seal is None:
                raise UserError(
                    f"stage '{owners[name]}' is not done yet ({directory} has no seal); "
                    f"run it first: python -m stages {owners[name]} --run {run}"
                )
            if ranks.is_main:
                verify_files(directory, seal)
        except BrokenSeal as error:
            raise UserError(
                f"{error}\ndelete {parts_of(placed)[name].place} to run stage '{owners[name]}' again"
            ) from error
        for split, digest in seal.about["images"].items():
            known, other = images.setdefault(split, (digest, directory))
            if known != digest:
                raise UserError(
                    f"{directory}: made from other {split} images than {other}; put the images back that it was made "
                    "from, or begin anew with another --run"
                )
        seals[name] = seal
    return seals


def _tracked(
    part: Part, stage: Stage, config: Config, run: Path, inputs: Mapping[str, Path], seals: Mapping[str, Seal]
) -> Tracked:
    steps = [seal.about["metrics"].get("global_step", 0) for seal in seals.values()]
    newest, git = newest_sealed(part.directory / CHECKPOINTS), git_state(SOURCE)
    return Tracked(
        stage=stage.name,
        part=part.name,
        directory=part.directory,
        inputs=inputs,
        run=run,
        name=run.absolute().name,
        group=part.place.parent.name if part.is_shared else None,
        config={**config.model_dump(mode="json"), "git": git},
        tags=(config.model.name, config.data.dataset, *config.tracking.tags),
        commit=None if git is None else git["commit"],
        weights=_trained_weights(run) if config.tracking.upload_weights and not stage.is_training else {},
        trained_steps=max(steps, default=0),
        is_distributed=stage.is_distributed,
        checkpoint_seconds=None if newest is None else newest[1].about["seconds"],
    )


def _trained_weights(run: Path) -> dict[str, Path]:
    """Return the weights that the run has trained, as far as they are there yet; W&B calls the last one `latest`."""
    found = {}
    for alias, name in (("best", run / BEST), ("latest", run)):
        with contextlib.suppress(UserError):
            found[alias] = find_weights(str(name), "tracking.upload_weights")
    return found


def _seal(part: Part, stage: Stage, result: StageResult) -> None:
    about = {
        "stage": stage.name,
        "version": stage.version,
        "key": part.key,
        "inputs": dict(part.inputs),
        "identity": part.identity,
        "images": result.images,
        "metrics": result.metrics,
        "provenance": collect_provenance(),
    }
    seal_directory(part.directory, "stage", about, result.outputs)


def _outcome(error: BaseException, part: Part | None, ranks: Ranks) -> Outcome:
    if isinstance(error, KeyboardInterrupt):
        return Outcome(EXIT_FAILED, NOT_SAVED, ranks.rank)
    if isinstance(error, UserError):
        return Outcome(EXIT_USER_ERROR, str(error), ranks.rank)
    if isinstance(error, StopRequested):
        return Outcome(EXIT_STOPPED, str(error), ranks.rank)
    if isinstance(error, OSError):
        if part is not None and isinstance(error, FileNotFoundError) and not part.directory.exists():
            return Outcome(
                EXIT_USER_ERROR, f"{part.directory}: this folder was removed while the stage ran", ranks.rank
            )
        if (sentence := explain(error)) is not None:
            return Outcome(EXIT_USER_ERROR, sentence, ranks.rank)
    torch = sys.modules.get("torch")  # a stage that has not imported it cannot have run out of its memory
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        tried = ". ".join(str(error).split(". ")[:2])
        return Outcome(
            EXIT_USER_ERROR,
            f"{tried}. Set a smaller train.max_micro_batch or, in the evaluation, evaluate.batch, unless another "
            "process takes the memory (nvidia-smi); checkpoints are unharmed",
            ranks.rank,
        )
    return Outcome(EXIT_FAILED, str(error) or type(error).__name__, ranks.rank)


def _explain(name: str, error: BaseException, outcome: Outcome, ranks: Ranks, is_first: bool) -> None:
    """Print one message, from the rank where the trouble began; errors on other ranks are consequences and are not
    printed."""
    # A user's mistake can show before the main rank has recorded the start.
    if not is_first and not (isinstance(error, UserError) and ranks.is_main):
        return
    is_known = isinstance(error, UserError | StartFailed | StopRequested | TrainingDiverged | KeyboardInterrupt)
    if not is_known and outcome.exit_code == EXIT_FAILED:
        traceback.print_exception(error)
    print_line(f"{name}: {outcome.message}", sys.stderr)


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_main:
        with contextlib.suppress(BrokenPipeError):  # nobody reads; the stage goes on
            print_line(text)
