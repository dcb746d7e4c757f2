"""Stages as W&B sees them: a directory with a journal, and perhaps a seal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.operations import TrackingConfig
from pipeline.store.seal import seal_directory
from pipeline.tracking.events import EventLog
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import WandbMirror
from pipeline.tracking.wandb_mode import Mode

SETTINGS = TrackingConfig(project="tests")


@dataclasses.dataclass
class Attempt:
    """One attempt of a stage, after its end."""

    tracked: Tracked
    warnings: list[str]


def tracked(run: Path, part: str = "train", **fields: Any) -> Tracked:
    """A stage of `run`, its directory made."""
    found = Tracked(
        **{
            "stage": part.partition("-")[0],
            "part": part,
            "directory": run / f"{part}-0123456789",
            "inputs": {},
            "run": run,
            "name": "small",
            "config": {"optim": {"lr": 0.1}},
            "trained_steps": 0,
            "is_distributed": False,
            "tags": (),
            "commit": None,
            "weights": {},
            "checkpoint_seconds": None,
            "group": None,
            **fields,
        }
    )
    found.directory.mkdir(exist_ok=True)
    return found


def train_fields(step: int) -> dict[str, Any]:
    return {"global_step": step, "epoch": step / 20, "loss": 2 / step, "lr": 0.1, "images_per_second": 400.0}


def train(stage: Tracked, steps: range) -> None:
    """Some steps, and a validation after the last."""
    log = EventLog(stage.directory)
    for step in steps:
        log.write("train", **train_fields(step))
    log.write("validation", global_step=steps[-1], epoch=1.0, loss=0.3, top1_error_percent=4.0, top5_error_percent=0.5)
    log.close()


def evaluate(stage: Tracked, *plans: str) -> None:
    log = EventLog(stage.directory)
    for plan in plans:
        log.write(
            "evaluation", plan=plan, images=9, crops=1, top1_error_percent=11.1, top5_error_percent=0.0, seconds=1
        )
    log.close()


def seal(stage: Tracked, metrics: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
    for name, content in (files or {}).items():
        (stage.directory / name).write_text(content)
    seal_directory(stage.directory, "stage", {"metrics": metrics}, files or {})


def live(stage: Tracked, steps: range, exit_code: int = 0, mode: Mode = "offline") -> Attempt:
    """One attempt of a training stage, from its start to the end of its mirror."""
    warnings: list[str] = []
    mirror = WandbMirror(SETTINGS, stage, mode, warnings.append)
    train(stage, steps)
    mirror.close(exit_code)
    return Attempt(stage, warnings)
