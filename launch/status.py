"""Say how far a run is, from its files alone: nothing is disturbed, and nothing need be running."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.chain import needed_stages
from launch.command import command_line
from launch.console import say, show, table
from launch.estimate import TRAINING_STAGES, step_spans, stream_order, training_images
from launch.results import print_results
from launch.state import StageState, last_checkpoint, stage_state
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.config.schema import Config
from pipeline.errors import EXIT_DONE
from pipeline.runs.stage import PlacedStage, place_stages
from pipeline.tracking.events import read_events
from pipeline.tracking.wording import clock_time
from stages import STAGES

_ERRORS = ("top1_error_percent", "top5_error_percent")
_MAIN_METRICS = (
    "train_images",
    "val_images",
    "classes",
    "parameters",
    "gmacs",
    "epochs",
    *_ERRORS,
    "images_per_second",
)


def print_status(run: Path) -> int:
    """Print where each stage stands; returns the exit code."""
    config = read_run_config(run)
    placed = place_stages(config, run, STAGES)
    needed = needed_stages(placed)
    states = {name: stage_state(stage, placed) for name, stage in needed.items()}
    rows = table("stage", "state", "")
    for name, state in states.items():
        rows.add_row(name, _condition(state), _detail(needed[name], state, config, placed))
    say(f"{config.name} in {run}\n")
    show(rows)
    if all(state.condition == "done" for state in states.values()):
        print_results(placed)
    elif not any(state.condition == "running" for state in states.values()):
        say(f"\nto go on: {command_line('run', run / RUN_CONFIG, '--run', run)}")
    return EXIT_DONE


def _condition(state: StageState) -> str:
    return f"{state.condition}, resumable" if state.condition in ("stopped", "killed") else state.condition


def _detail(stage: PlacedStage, state: StageState, config: Config, placed: Mapping[str, PlacedStage]) -> str:
    lines = [state.detail]
    if state.condition == "done":
        lines += _metrics(state.metrics)
    elif stage.name in TRAINING_STAGES and stage.directory.exists():
        lines += _training(stage, state, config, placed)
    return "\n".join(lines)


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    """A stage's main figures in one line, those of each crop plan in a line of their own."""
    plain = [_figure(name, metrics[name]) for name in _MAIN_METRICS if metrics.get(name) is not None]
    plans = [
        f"{name}: {', '.join(_figure(error, plan[error]) for error in _ERRORS)}"
        for name, plan in metrics.items()
        if isinstance(plan, Mapping) and "views" in plan
    ]
    return ([", ".join(plain)] if plain else []) + plans


def _figure(name: str, value: float) -> str:
    if name.endswith("_percent"):
        return f"{name.removesuffix('_percent')} {value:.2f} %"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:,.5g}"


def _training(stage: PlacedStage, state: StageState, config: Config, placed: Mapping[str, PlacedStage]) -> list[str]:
    """How far training is, how fast, and what a kill would cost."""
    lines = []
    events = list(read_events(stage.directory, "train"))
    images = training_images(config, placed).count
    if events and images is not None:
        event = events[-1]
        order = stream_order(config, images)
        span = step_spans(config, order, {stage.name: stage})[stage.name]
        fields = [f"step {event['global_step']:,} of {span.last:,}", f"epoch {event['epoch']:.2f}"]
        if state.condition == "running":
            left = (span.last - event["global_step"]) * config.train.global_batch / event["images_per_second"]
            fields += [f"{event['images_per_second']:,.1f} images/s", f"ETA {clock_time(left)}"]
        lines.append(", ".join([*fields, f"loss {event['loss']:.3f}", f"{_age(event['time'])} ago"]))
    saved = last_checkpoint(stage.directory)
    lines.append(f"checkpoint after step {saved[0]:,}, {_age(saved[1])} ago" if saved else "no checkpoint yet")
    return lines


def _age(since: float) -> str:
    return clock_time(max(0.0, time.time() - since))
