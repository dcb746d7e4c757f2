"""Run the unfinished stages of a recipe, one after another, on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from launch.child import Supervisor
from launch.console import complain, say
from launch.engine import check_engine
from launch.gpu import advise, count_visible_gpus
from launch.inputs import check_initial_checkpoint, check_inputs
from launch.job_graph import Stages, choose_stages
from launch.recipe_options import recipe_words
from launch.refusal import naming_member, refuse_false_claims, warnings
from launch.stage_run import run_stage
from launch.status import show_sweep
from launch.summary import print_results
from launch.sweep import read_sweep, set_up_runs
from launch.uploads import describe_uploads
from pipeline.config.identity import leaves
from pipeline.config.overrides import describe_overrides
from pipeline.config.schema import Config
from pipeline.config.section import Kind
from pipeline.config.sweep import Member
from pipeline.ground.cores import count_cores
from pipeline.ground.errors import EXIT_DONE, EXIT_STOPPED, UserError
from pipeline.ground.interpreter import command_line
from pipeline.running.named_weights import new_choices
from pipeline.running.stage import Part, place_stages, refuse_busy
from pipeline.store.seal import BrokenSeal, read_seal
from pipeline.training.batching import split_batch, warn_of_few_images
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class RunRequest:
    """The command line of `run`."""

    config: Path
    overrides: tuple[str, ...] = ()
    other_configs: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = ()
    run: Path | None = None
    only: str | None = None
    first: str | None = None
    from_checkpoint: str | None = None
    accept_changes: bool = False

    def all_overrides(self) -> list[str]:
        """Return the given overrides and those of the options."""
        checkpoint = (
            [] if self.from_checkpoint is None else [f"freeze_bn.from_checkpoint={json.dumps(self.from_checkpoint)}"]
        )
        return [*self.overrides, *checkpoint]

    def recipe(self) -> tuple[str, ...]:
        """Return the part of the command line that names recipes and run directory, without the choice of stages."""
        recipes = recipe_words(self.config, self.other_configs, self.seeds)
        run = () if self.run is None else ("--run", str(self.run))
        checkpoint = () if self.from_checkpoint is None else ("--from-checkpoint", self.from_checkpoint)
        return (*recipes, *self.overrides, *run, *checkpoint)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One run of the command line."""

    name: str
    """That of a sweep's member, or empty."""
    directory: Path
    config: Config
    placed: Stages
    chosen: Stages


def run_stages(request: RunRequest) -> int:
    """Set up the run, or those of a sweep, and run the chosen stages of one after another.

    Returns the exit code of the contract; of a sweep, that of the first member that failed, since the others go on.
    """
    sweep = read_sweep((request.config, *request.other_configs), request.all_overrides(), request.run, request.seeds)
    with contextlib.ExitStack() as choices:
        runs = [_place(request, member, sweep.run_of(member), choices) for member in sweep.members]
        advice = [*warnings([(each.name, each.config, each.chosen) for each in runs]), *_advice(runs[0])]
        set_up_runs(sweep, ((each.directory, each.config, each.chosen) for each in runs), request.accept_changes)
    for text in advice:
        say(text)
    supervisor = Supervisor()
    supervisor.install()
    failed: dict[str, int] = {}
    for number, each in enumerate(runs, start=1):
        if not sweep.is_single:
            say(f"\n{each.name}: run {number} of {len(runs)}")
        if all(stage.is_done for stage in each.chosen.values()):
            _say_nothing_to_do(request, each)
            code = EXIT_DONE
        else:
            code = _run(each, supervisor, failed)
        if code == EXIT_STOPPED or supervisor.has_killed:
            return _ended(code, request, supervisor)
        if sweep.is_single and all(stage.is_done for stage in each.placed.values()):
            print_results(each.directory, each.placed)
    if not sweep.is_single:
        show_sweep(sweep.folder)
    if failed:
        return _ended(next(iter(failed.values())), request, supervisor)
    return EXIT_DONE


def _place(request: RunRequest, member: Member, run: Path, choices: contextlib.ExitStack) -> _Run:
    """Place and check the stages of one run. Raises UserError as `_check` does."""
    config = member.config
    with naming_member(member.name):
        check_initial_checkpoint(config)
        choices.enter_context(new_choices(run, wanted=request.accept_changes))
        placed = place_stages(config, run, STAGES)
        chosen = choose_stages(placed, request.only, request.first, request.recipe())
        _check(config, chosen)
    return _Run(member.name, run, config, placed, chosen)


def _say_nothing_to_do(request: RunRequest, this: _Run) -> None:
    """Say that the chosen stages are done, and which overrides of a single run therefore have no effect."""
    say(f"nothing to do: {', '.join(this.chosen)} {'is' if len(this.chosen) == 1 else 'are'} done in {this.directory}")
    results = {leaf.name for leaf in leaves() if leaf.kind is Kind.RESULT}
    lines = [] if this.name else describe_overrides(request.overrides)
    if idle := [line for line in lines if line.partition(" = ")[0] not in results]:
        again = dataclasses.replace(request, run=this.directory.with_name(f"{this.directory.name}-again"))
        say(f"without effect on what is done, since no result depends on it: {', '.join(idle)}")
        say(f"to do it all once more, in a run of its own: {command_line('run', *again.recipe())}")


def _run(this: _Run, supervisor: Supervisor, failed: dict[str, int]) -> int:
    """Run the chosen stages of one run and print its results. Returns its exit code.

    `failed` are keys of stages that have failed, which are not tried again for another run, and their exit codes.
    """
    order = list(this.placed)
    for name, stage in this.chosen.items():
        header = f"[{order.index(name) + 1}/{len(order)}] {name}"
        if stage.is_done:
            say(f"{header}: already done in {stage.directory}")
            continue
        if stage.key in failed:
            complain(f"{header}: has failed before, as part of another run")
            return failed[stage.key]
        if supervisor.stop_reason is not None:
            complain(f"stopped on {supervisor.stop_reason} before stage {name}")
            return EXIT_STOPPED
        say(f"{header}: {stage.stage.summary}")
        code = run_stage(header, stage, this.directory, this.config, supervisor)
        if code != EXIT_DONE:
            failed[stage.key] = code
            return code
    return EXIT_DONE


def _check(config: Config, chosen: Stages) -> None:
    """Check in advance for errors that would otherwise end a later stage.

    Raises UserError if the processes do not suit the batch, a directory is in use, a seal is damaged, images or weights
    are missing, an engine or a compiler is not installed, or the recipe's claims about its network are false.
    """
    split_batch(config.train.global_batch, config.resources.processes, config.train.max_micro_batch)
    for stage in chosen.values():
        for part in stage.parts:
            _check_part(part)
    check_inputs(config, chosen)
    check_engine(config, chosen)
    refuse_false_claims(config, chosen)


def _advice(run: _Run) -> list[str]:
    """Return what of the processes and the batch is probably not meant, and what Weights & Biases gets.

    Raises UserError if this machine is not for so many processes.
    """
    config, chosen, processes = run.config, run.chosen, run.config.resources.processes
    advice: list[str | None] = []
    mode, uploads = describe_uploads(config, chosen)
    if mode == "online" and not all(stage.is_done for stage in chosen.values()):
        advice.append(f"Weights & Biases: {uploads}")
    if any(stage.stage.is_distributed and not stage.is_done for stage in chosen.values()):
        advice.append(advise(processes, count_visible_gpus(), count_cores()))
    if "train" in chosen and not chosen["train"].is_done:
        split = split_batch(config.train.global_batch, processes, config.train.max_micro_batch)
        advice.append(warn_of_few_images(split, config))
    return [text for text in advice if text is not None]


def _check_part(part: Part) -> None:
    try:
        read_seal(part.directory, "stage")
    except BrokenSeal as error:
        raise UserError(f"{error}\ndelete {part.place} and run the same command again") from error
    refuse_busy(part)


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
