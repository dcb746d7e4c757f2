"""Whether a profile and a recipe fit each other: found out before anything is queued, and said with the numbers."""

from __future__ import annotations

from pathlib import Path

from launch.estimate import TRAINING_STAGES, stream_order, training_images, training_rate
from launch.job_graph import Stages
from launch.slurm.profile import Profile, Shape
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.tracking.wording import clock_time
from pipeline.training.batching import describe_batch, split_batch


def check_fit(config: Config, profile: Profile, path: Path, chosen: Stages, placed: Stages) -> list[str]:
    """How each training stage's batch is made up, one line each. UserError with all that does not fit."""
    shapes = profile.shapes()
    notes, problems = [], []
    for name, stage in chosen.items():
        shape = shapes[name]
        where = f"{path}: stages.{name}: {shape.describe()}"
        if not stage.spec.distributed and shape.tasks > 1:
            problems.append(f"{where} = {shape.tasks} processes, but this stage runs as one process on one node")
        if name not in TRAINING_STAGES:
            continue
        problems += _wrong_world_size(config, shape, where)
        try:
            split = split_batch(config.train.global_batch, shape.tasks, config.train.max_micro_batch)
        except UserError as error:
            problems.append(f"{where}: {error}")
            continue
        notes.append(f"{name}: {shape.describe()}: {describe_batch(split, config.optim.lr)}")
        problems += _too_short(config, profile, shape, f"{path}: stages.{name}.minutes", placed)
    if problems:
        raise UserError("\n".join(problems))
    return notes


def training_processes(config: Config, profile: Profile, chosen: Stages) -> int:
    """The world size of training under this profile; the recipe's own where nothing is to be trained."""
    shapes = profile.shapes()
    return next((shapes[name].tasks for name in TRAINING_STAGES if name in chosen), config.resources.processes)


def _wrong_world_size(config: Config, shape: Shape, where: str) -> list[str]:
    """A recipe that names a number of processes above 1 was reckoned for it."""
    wanted = config.resources.processes
    if wanted in (1, shape.tasks):
        return []
    return [
        f"{where} = {shape.tasks} processes, the recipe wants resources.processes = {wanted}; choose another profile, "
        f"or add processes={shape.tasks} if that is what you want (the global batch stays {config.train.global_batch})"
    ]


def _too_short(config: Config, profile: Profile, shape: Shape, key: str, placed: Stages) -> list[str]:
    """Where the throughput is known: whether a checkpoint that is due falls into the time limit at all."""
    rate, images = training_rate(config, placed), training_images(config, placed).count
    if rate is None or images is None:
        return []
    every_epochs = stream_order(config, images).steps_for(config.checkpoint.every_epochs)
    steps = min(every_epochs, config.checkpoint.every_steps or every_epochs)
    seconds = steps * config.train.global_batch / (rate.images_per_second * shape.tasks)
    available = 60 * shape.minutes - profile.warning_seconds
    if seconds <= available:
        return []
    return [
        f"{key}: {shape.minutes} min less {profile.warning_seconds} s of warning are shorter than the "
        f"{clock_time(seconds)} from one checkpoint to the next ({steps:,} steps of {config.train.global_batch} images "
        f"at {shape.tasks} x {rate.images_per_second:,.4g} images/s, {rate.source}); give more minutes, or set "
        f"checkpoint.every_steps to at most {max(1, int(steps * available / seconds))}"
    ]
