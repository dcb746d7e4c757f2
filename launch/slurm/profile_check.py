"""The check of a profile against a recipe, before anything is queued."""

from __future__ import annotations

from pathlib import Path

from launch.estimate import stream_order, training_images, training_rate
from launch.job_graph import Stages
from launch.slurm.profile import Profile, Shape, load_profile
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.tracking.wording import duration
from pipeline.training.batching import describe_batch, split_batch, warn_of_few_images


def check_profile(config: Config, profile: Profile, path: Path, chosen: Stages, placed: Stages) -> list[str]:
    """Describe the batch of each training stage, one line each.

    Raises UserError with the numbers if the profile at `path` does not suit the `chosen` stages of the recipe.
    """
    shapes = profile.shapes()
    notes, problems = [], []
    for name, placed_stage in chosen.items():
        stage, shape = placed_stage.stage, shapes[name]
        where = f"{path}: stages.{name}: {shape.describe()}"
        if not stage.is_distributed and shape.tasks > 1:
            problems.append(f"{where} = {shape.tasks} processes, but this stage runs as one process on one node")
        if not stage.is_training:
            continue
        problems += _wrong_world_size(config, shape, where)
        try:
            split = split_batch(config.train.global_batch, shape.tasks, config.train.max_micro_batch)
        except UserError as error:
            problems.append(f"{where}: {error}")
            continue
        notes.append(f"{name}: {shape.describe()}: {describe_batch(split, config.optim.lr)}")
        warning = warn_of_few_images(split, config)
        notes += [f"{name}: {warning}"] if warning is not None and name == "train" else []
        problems += _too_short(config, profile, shape, f"{path}: stages.{name}.minutes", placed)
    if problems:
        raise UserError("\n".join(problems))
    return notes


def with_profile(config: Config, path: Path, placed: Stages) -> Config:
    """Return the recipe with the world size of the profile. Raises UserError if they are incompatible."""
    profile = load_profile(path)
    undone = {name: stage for name, stage in placed.items() if not stage.is_done}
    check_profile(config, profile, path, undone, placed)
    resources = config.resources.model_copy(update={"processes": training_world_size(config, profile, placed)})
    return config.model_copy(update={"resources": resources})


def training_world_size(config: Config, profile: Profile, placed: Stages) -> int:
    """Return the world size of training under this profile, or the recipe's own if nothing is left to train."""
    shapes = profile.shapes()
    sizes = (shapes[name].tasks for name, stage in placed.items() if stage.stage.is_training)
    return next(sizes, config.resources.processes)


def _wrong_world_size(config: Config, shape: Shape, where: str) -> list[str]:
    """Return the problem, if any, with a world size other than the recipe's, which was tuned for it unless it is 1."""
    wanted = config.resources.processes
    if wanted in (1, shape.tasks):
        return []
    return [
        f"{where} = {shape.tasks} processes, the recipe wants resources.processes = {wanted}; choose another profile, "
        f"or add processes={shape.tasks} if that is what you want (the global batch stays {config.train.global_batch})"
    ]


def _too_short(config: Config, profile: Profile, shape: Shape, key: str, placed: Stages) -> list[str]:
    """Return the problem, if any, with a time limit before the first checkpoint, as far as the throughput is known."""
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
        f"{duration(seconds)} from one checkpoint to the next ({steps:,} steps of {config.train.global_batch} images "
        f"at {rate.describe(shape.tasks)}); give more minutes, or set "
        f"checkpoint.every_steps to at most {max(1, int(steps * available / seconds))}"
    ]
