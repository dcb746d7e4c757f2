"""Print the progress of a run, from its files and, if it has jobs, from SLURM, without disturbing it."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.console import say, show, table
from launch.estimate import step_spans, stream_order, train_events, training_images
from launch.slurm.job_status import RunJobs, jobs_of
from launch.state import StageState, last_checkpoint, stage_state
from launch.summary import print_results, print_upload
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.config.schema import Config
from pipeline.config.sweep import members_of
from pipeline.ground.counting import counted
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.interpreter import command_line
from pipeline.running.attempts import read_attempts
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.tracking.wandb_state import read_link
from pipeline.tracking.wording import duration, epoch, errors, rate
from stages import STAGES

_CLEAR_SCREEN = "\x1b[H\x1b[2J"
"""Printed in one piece with the text after it, once that is complete: the screen is never empty while SLURM answers."""
_METRICS: dict[str, Callable[[Any], str]] = {
    "train_images": lambda value: counted(value, "training image"),
    "val_images": lambda value: counted(value, "validation image"),
    "test_images": lambda value: counted(value, "test image"),
    "classes": lambda value: counted(value, "class"),
    "parameters": "{:,} parameters".format,
    "gmacs": "{:.3g} GMAC an image".format,
    "epochs": "{:.1f} epochs".format,
    "images_per_second": lambda value: rate(value, "image"),
}
"""Metrics of a stage that are worth a line, in that order."""


def print_status(run: Path) -> int:
    """Print the state of each stage, or of each run of a sweep. Returns the exit code."""
    show_status(run)
    return EXIT_DONE


def watch_status(run: Path, seconds: float) -> int:
    """Print the status repeatedly until all is done. Returns the exit code."""
    while True:
        if show_status(run, _CLEAR_SCREEN if sys.stdout.isatty() else ""):
            return EXIT_DONE
        say(f"\n{time.strftime('%F %T')}, again every {seconds:g} s; Ctrl-C ends this, not the run")
        time.sleep(seconds)


@dataclasses.dataclass(frozen=True)
class _Status:
    """The stages of a run, and their states."""

    config: Config
    placed: Mapping[str, PlacedStage]
    jobs: RunJobs
    states: Mapping[str, StageState]

    @classmethod
    def of(cls, runs: Iterable[Path]) -> dict[Path, _Status]:
        """Read those of runs. Raises UserError if one is no run directory of this version."""
        configs = {run: read_run_config(run) for run in runs}
        placed = {run: place_stages(config, run, STAGES) for run, config in configs.items()}
        found = {}
        for run, jobs in jobs_of(placed).items():
            stages = placed[run]
            states = {name: jobs.with_job(stage, stage_state(stage, stages)) for name, stage in stages.items()}
            found[run] = cls(configs[run], stages, jobs, states)
        return found

    @property
    def is_done(self) -> bool:
        """Whether every stage is done."""
        return all(state.condition == "done" for state in self.states.values())

    @property
    def is_at_work(self) -> bool:
        """Whether a process runs or a job is queued."""
        return self.jobs.is_alive or any(state.condition == "running" for state in self.states.values())


def show_status(run: Path, before: str = "") -> bool:
    """Print the state of each stage, or of each run of a sweep, after `before`. Returns whether all is done.

    Raises UserError if `run` is no run directory of this version.
    """
    if members_of(run):
        is_done, is_at_work = show_sweep(run, before)
        if not is_done and not is_at_work:
            say("\nto go on: the same command again, or any of its runs by itself")
        return is_done
    status = _Status.of([run])[run]
    rows = table("stage", "state", "")
    for name, state in status.states.items():
        rows.add_row(name, _condition(state), _detail(status.placed[name], state, status.config, status.placed))
    print(before, end="")
    say(f"{status.config.name} in {run}\n")
    show(rows)
    if (link := read_link(run)) is not None:
        say(f"\nWeights & Biases: {link}")
    _print_problem(status.jobs)
    if status.is_done:
        print_results(run, status.placed)
        return True
    if not status.is_at_work:
        say(f"\nto go on: {_way_on(run, status.jobs)}")
    return False


def show_sweep(folder: Path, before: str = "") -> tuple[bool, bool]:
    """Print a line for each run of a sweep: its errors, or the stage that it is at.

    Returns whether all is done, and whether a process or job is at work.
    """
    members = members_of(folder)
    runs = _Status.of(run for run in members if (run / RUN_CONFIG).is_file())
    rows = table("run", "stage", "state", "")
    for run, status in runs.items():
        if status.is_done:
            rows.add_row(run.name, "", "done", ", ".join(errors(next(iter(status.states["fuse"].metrics.values())))))
            continue
        name, state = next((name, state) for name, state in status.states.items() if state.condition != "done")
        rows.add_row(
            run.name, name, _condition(state), _detail(status.placed[name], state, status.config, status.placed)
        )
    print(before, end="")
    done = sum(status.is_done for status in runs.values())
    say(f"the sweep in {folder}: {done} of {counted(len(members), 'run')} done\n")
    show(rows)
    if runs:  # of which SLURM was asked once
        _print_problem(next(iter(runs.values())).jobs)
    print_upload(runs)
    return done == len(members), any(status.is_at_work for status in runs.values())


def _print_problem(jobs: RunJobs) -> None:
    if jobs.problem is not None:
        say(f"\nwhat is queued is not known: {jobs.problem}")


def _way_on(run: Path, jobs: RunJobs) -> str:
    command = "run" if jobs.profile is None else "submit"
    profile = () if jobs.profile is None else ("--profile", jobs.profile)
    return command_line(command, run / RUN_CONFIG, *profile, "--run", run)


def _condition(state: StageState) -> str:
    return f"{state.condition}, resumable" if state.condition in ("stopped", "killed") else state.condition


def _detail(stage: PlacedStage, state: StageState, config: Config, placed: Mapping[str, PlacedStage]) -> str:
    lines = [state.detail]
    if state.condition == "done":
        lines += [line for metrics in state.metrics.values() for line in _metrics(metrics)]
    elif stage.stage.is_training and stage.directory.exists():
        lines += _training(stage, state, config, placed)
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Format a stage's main metrics in one line, those of each crop plan in a line of their own."""
    plain = [describe(metrics[name]) for name, describe in _METRICS.items() if metrics.get(name) is not None]
    plans = [
        f"{name}: {', '.join(errors(plan)) or 'scores without labels'}"
        for name, plan in metrics.items()
        if isinstance(plan, Mapping) and "crops" in plan
    ]
    plain += errors(metrics)
    return ([", ".join(plain)] if plain else []) + plans


def _training(stage: PlacedStage, state: StageState, config: Config, placed: Mapping[str, PlacedStage]) -> list[str]:
    """Describe training's progress and speed, and the steps that a kill would lose."""
    lines = []
    events = train_events(stage.directory)
    images = training_images(config, placed).count
    if events and images is not None:
        event = events[-1]
        order = stream_order(config, images)
        span = step_spans(config, order, {stage.name: stage})[stage.name]
        fields = [f"step {event['global_step']:,} of {span.last:,}", epoch(event["epoch"])]
        # A job that was requeued runs for minutes before it has a speed of its own.
        started = max((attempt.start for attempt in read_attempts(stage.directory)), default=0.0)
        if state.condition == "running" and event["time"] >= started:
            left = (span.last - event["global_step"]) * config.train.global_batch / event["images_per_second"]
            fields += [rate(event["images_per_second"], "image"), f"ETA {duration(left)}"]
        lines.append(", ".join([*fields, f"loss {event['loss']:.3f}", f"{_age(event['time'])} ago"]))
    saved = last_checkpoint(stage.directory)
    lines.append(f"checkpoint after step {saved[0]:,}, {_age(saved[1])} ago" if saved else "no checkpoint yet")
    return lines


def _age(since: float) -> str:
    return duration(max(0.0, time.time() - since))
