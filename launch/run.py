"""Run the unfinished stages of a recipe, one after another, on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import time
from pathlib import Path

from launch.child import Supervisor, stage_command, stage_environment
from launch.console import complain, say
from launch.engine import check_engine
from launch.gpu import advise, count_visible_gpus
from launch.inputs import advise_on_sizes, check_initial_checkpoint, check_inputs
from launch.job_graph import Stages, choose_stages
from launch.recipe import read_recipe
from launch.run_directory import default_run, set_up
from launch.summary import print_results
from launch.uploads import describe_uploads
from pipeline.config.identity import leaves
from pipeline.config.overrides import describe_overrides
from pipeline.config.schema import Config
from pipeline.config.section import Kind
from pipeline.ground.cores import count_cores
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from pipeline.ground.interpreter import command_line
from pipeline.running.attempts import NOT_SAVED, Outcome, read_outcome, read_records
from pipeline.running.named_weights import new_choices
from pipeline.running.stage import Part, PlacedStage, place_stages
from pipeline.store.lock import DirectoryBusy, busy_message, lock_holder
from pipeline.store.seal import BrokenSeal, read_seal
from pipeline.tracking.wording import duration
from pipeline.training.batching import split_batch, warn_of_few_images
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """The command line of `run`."""

    config: Path
    overrides: tuple[str, ...] = ()
    run: Path | None = None
    only: str | None = None
    first: str | None = None
    from_checkpoint: str | None = None
    accept_changes: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> RunRequest:
        """Build the request from the parsed arguments."""
        fields = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)}
        return cls(**{**fields, "overrides": tuple(arguments.overrides)})

    def all_overrides(self) -> list[str]:
        """Return the given overrides and those of the options."""
        checkpoint = (
            [] if self.from_checkpoint is None else [f"freeze_bn.from_checkpoint={json.dumps(self.from_checkpoint)}"]
        )
        return [*self.overrides, *checkpoint]

    def recipe(self) -> tuple[str, ...]:
        """Return the part of the command line that names recipe and run directory, without the choice of stages."""
        run = () if self.run is None else ("--run", str(self.run))
        checkpoint = () if self.from_checkpoint is None else ("--from-checkpoint", self.from_checkpoint)
        return (str(self.config), *self.overrides, *run, *checkpoint)


def run_stages(request: RunRequest) -> int:
    """Set the run up and run the chosen stages. Returns the exit code of the contract."""
    config = read_recipe(request.config, request.all_overrides())
    check_initial_checkpoint(config)
    run = request.run or default_run(config)
    with new_choices(run, wanted=request.accept_changes):
        placed = place_stages(config, run, STAGES)
        chosen = choose_stages(placed, request.only, request.first, request.recipe())
        _check(config, chosen)
        set_up(run, config, chosen.values(), request.accept_changes)
    _advise(config, chosen)
    if all(stage.is_done for stage in chosen.values()):
        _say_nothing_to_do(request, config, run, chosen)
    elif (code := _run_chosen(request, config, run, placed, chosen)) != EXIT_DONE:
        return code
    if all(stage.is_done for stage in placed.values()):
        print_results(run, placed)
    return EXIT_DONE


def _say_nothing_to_do(request: RunRequest, config: Config, run: Path, chosen: Stages) -> None:
    """Say that the chosen stages are done, and which overrides therefore have no effect."""
    say(f"nothing to do: {', '.join(chosen)} {'is' if len(chosen) == 1 else 'are'} done in {run}")
    results = {leaf.name for leaf in leaves() if leaf.kind is Kind.RESULT}
    idle = [line for line in describe_overrides(config, request.overrides) if line.partition(" = ")[0] not in results]
    if idle:
        again = dataclasses.replace(request, run=run.with_name(f"{run.name}-again"))
        say(f"without effect on what is done, since no result depends on it: {', '.join(idle)}")
        say(f"to do it all once more, in a run of its own: {command_line('run', *again.recipe())}")


def _run_chosen(request: RunRequest, config: Config, run: Path, placed: Stages, chosen: Stages) -> int:
    """Run what is not done of the chosen stages. Returns the exit code of the contract."""
    supervisor = Supervisor()
    supervisor.install()
    order = list(placed)
    for name, stage in chosen.items():
        header = f"[{order.index(name) + 1}/{len(order)}] {name}"
        if stage.is_done:
            say(f"{header}: already done in {stage.directory}")
            continue
        if supervisor.stop_reason is not None:
            complain(f"stopped on {supervisor.stop_reason} before stage {name}")
            return _ended(EXIT_STOPPED, request, supervisor)
        say(f"{header}: {stage.stage.summary}")
        code = _run_stage(header, stage, run, config, supervisor)
        if code != EXIT_DONE:
            return _ended(code, request, supervisor)
    return EXIT_DONE


def _check(config: Config, chosen: Stages) -> None:
    """Check in advance for errors that would otherwise end a later stage.

    Raises UserError if the processes do not suit the batch, a directory is in use, a seal is damaged, images or weights
    are missing, or an engine is not installed.
    """
    split_batch(config.train.global_batch, config.resources.processes, config.train.max_micro_batch)
    for stage in chosen.values():
        for part in stage.parts:
            _check_part(part)
    check_inputs(config, chosen)
    check_engine(config, chosen)


def _advise(config: Config, chosen: Stages) -> None:
    """Say what is allowed and probably not meant."""
    processes = config.resources.processes
    advice = [advise_on_sizes(config, chosen)]
    mode, uploads = describe_uploads(config, chosen)
    if mode == "online" and not all(stage.is_done for stage in chosen.values()):
        advice.append(f"Weights & Biases: {uploads}")
    if any(stage.stage.is_distributed and not stage.is_done for stage in chosen.values()):
        advice.append(advise(processes, count_visible_gpus(), count_cores()))
    if "train" in chosen and not chosen["train"].is_done:
        split = split_batch(config.train.global_batch, processes, config.train.max_micro_batch)
        advice.append(warn_of_few_images(split, config))
    for text in advice:
        if text is not None:
            say(text)


def _check_part(part: Part) -> None:
    try:
        if read_seal(part.directory, "stage") is not None:
            return
    except BrokenSeal as error:
        raise UserError(f"{error}\ndelete {part.directory} and run the same command again") from error
    holder = lock_holder(part.directory)
    if holder is not None:
        raise DirectoryBusy(busy_message(part.directory, holder))


def _run_stage(header: str, stage: PlacedStage, run: Path, config: Config, supervisor: Supervisor) -> int:
    """Run one stage to its end, report its outcome, and return its code."""
    processes = config.resources.processes if stage.stage.is_distributed else 1
    records = {part.directory: len(read_records(part.directory)) for part in stage.parts}
    started = time.monotonic()
    code = supervisor.run(stage_command(stage.name, run, processes), stage_environment(os.environ, processes))
    took = duration(time.monotonic() - started)
    if stage.is_done:
        say(f"{header}: done in {took}")
        return EXIT_DONE
    noted = read_outcome(stage.directory, after=records[stage.directory])
    ending = _ending(stage, code, supervisor, noted, is_group=processes > 1)
    if ending.exit_code == EXIT_STOPPED:
        complain(f"{header}: stopped after {took}")
    else:
        complain(f"{header}: failed after {took}; {ending.message or f'its directory is {stage.directory}'}")
    return ending.exit_code


@dataclasses.dataclass(frozen=True)
class _Ending:
    """How an unfinished stage ended."""

    exit_code: int
    message: str = ""
    """Message to print; empty if the stage's last line was it."""


def _ending(stage: PlacedStage, code: int, supervisor: Supervisor, noted: Outcome | None, *, is_group: bool) -> _Ending:
    """Return the outcome recorded by the stage, or else that of its process."""
    if supervisor.has_killed:
        return _Ending(EXIT_FAILED, NOT_SAVED)
    if noted is not None:
        # Of several processes each prints something, and one's error is another's consequence: say which came first.
        return _Ending(noted.exit_code, f"rank {noted.rank}: {noted.message}" if is_group else "")
    if not stage.directory.exists():
        return _Ending(EXIT_USER_ERROR, f"{stage.directory}: this folder was removed while the stage ran")
    if supervisor.stop_reason is not None:
        return _Ending(EXIT_STOPPED)
    if code == EXIT_USER_ERROR:
        return _Ending(code)
    if code < 0:
        name = signal.Signals(-code).name
        return _Ending(EXIT_FAILED, f"its process was killed by {name}" + " (out of memory?)" * (name == "SIGKILL"))
    return _Ending(EXIT_FAILED, f"it ended with code {code} and left no message" if is_group else "")


def _ended(code: int, request: RunRequest, supervisor: Supervisor) -> int:
    """Print the next step for the user, and return the exit code."""
    command = command_line("run", *request.recipe(), *_options(request))
    has_failed = code != EXIT_STOPPED and not supervisor.has_killed
    complain(f"when the cause is removed, go on with: {command}" if has_failed else f"to go on: {command}")
    return code


def _options(request: RunRequest) -> tuple[str, ...]:
    only = () if request.only is None else ("--only", request.only)
    first = () if request.first is None else ("--from", request.first)
    return (*only, *first)
