"""Checks of inputs from outside the run, before hours of work end in an error."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from launch.job_graph import Stages
from launch.own_images import check_own_images
from pipeline.config.network import ModelConfig
from pipeline.config.schema import Config
from pipeline.data.recognition import check_places, place_of
from pipeline.data.tree import class_order, list_folder
from pipeline.evaluation.network_classes import map_classes
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import command_line
from pipeline.interop.container import recognise
from pipeline.running.named_weights import resolve_weights
from pipeline.store.weight_header import read_metadata
from pipeline.training.initial_checkpoint import initial_step

_FAR = 2.0
"""Ratio of sizes that is no usual one."""


def check_initial_checkpoint(config: Config) -> None:
    """Check that `freeze_bn.from_checkpoint` is a checkpoint, before stages are placed, which need its seal.

    Raises UserError if it is not.
    """
    if config.freeze_bn.from_checkpoint is not None:
        initial_step(config.freeze_bn.from_checkpoint)


def check_inputs(config: Config, stages: Stages) -> None:
    """Check that the image folders and the weight files needed by unfinished ones of `stages` exist.

    Raises UserError saying all that is missing or of another kind, and how to create it.
    """
    images, evaluation = (_error(check, config, stages) for check in (_check_images, _check_evaluation))
    problems = [images, _error(_check_build, config, stages), evaluation]
    if images is evaluation is None:
        problems.append(_error(_check_classes, config, stages))
    if found := [str(problem) for problem in problems if problem is not None]:
        raise UserError("\n".join(dict.fromkeys(found)))


def _error(check: Callable[[Config, Stages], None], config: Config, stages: Stages) -> UserError | None:
    try:
        check(config, stages)
    except UserError as error:
        return error
    return None


def _check_images(config: Config, stages: Stages) -> None:
    if "prepare" in stages:
        wanted = [part.split for part in stages["prepare"].parts if part.split is not None and not part.is_done]
        check_own_images(config, stages)
        check_places(config.data, wanted)


def _check_build(config: Config, stages: Stages) -> None:
    if config.model.weights is not None and "build" in stages and not stages["build"].is_done:
        run = stages["build"].directory.parent
        _check_network(config, "model.weights", resolve_weights(config.model.weights, run, "model.weights"))


def _check_evaluation(config: Config, stages: Stages) -> None:
    if (weights := _evaluated_weights(config, stages)) is not None:
        _check_network(config, "evaluate.weights", weights)


def _evaluated_weights(config: Config, stages: Stages) -> Path | None:
    if config.evaluate.weights is None or "evaluate" not in stages or stages["evaluate"].is_done:
        return None
    return resolve_weights(config.evaluate.weights, stages["evaluate"].directory.parent)


def _check_network(config: Config, key: str, weights: Path) -> None:
    """Raises UserError if a file is no safetensors, or says that it has weights of another network (not all say)."""
    require_safetensors(weights, key)
    metadata = read_metadata(weights)
    if "model" not in metadata:
        return
    network = ModelConfig.described(metadata, config.model.reckoned_classes, str(weights))
    if overrides := config.model.overrides_to(network):
        raise UserError(
            f"{key}: {weights} has weights of {network.title} (the recipe's network: {config.model.title}); "
            f"to take their network add {' '.join(map(shlex.quote, overrides))}"
        )


def _check_classes(config: Config, stages: Stages) -> None:
    """Raises UserError if class folders that are there are not known to the network; the stage looks at all others."""
    weights = _evaluated_weights(config, stages)
    if weights is None:
        return
    metadata = read_metadata(weights)
    if config.data.root is None or "num_classes" not in metadata or config.evaluate.split == "test":
        return
    place = place_of(config.data, config.evaluate.split)
    if place.kind == "folders" and (folders := list_folder(place.path)[0]):
        file = None if config.evaluate.classes is None else Path(config.evaluate.classes)
        num_classes = int(metadata["num_classes"])
        map_classes(place.split, class_order(folders), num_classes, metadata, file, str(weights))


def advise_on_sizes(config: Config, stages: Stages) -> str | None:
    """Return a warning if crops of quite another size are evaluated than what is to be trained, else None.

    Somewhat larger ones are usual, and better (section 5.1 of the paper: 320 px for 224).
    """
    if not any(stage.stage.is_training and not stage.is_done for stage in stages.values()):
        return None
    trained = config.train.image_size_px
    plans = {"train.validation": (config.train.validation,), "evaluate.plans": config.evaluate.plans}
    far = [
        f"{key} ({plan.name}: {seen} px)"
        for key, given in plans.items()
        for plan in given
        if max(seen := plan.crops[0].crop_px or plan.crops[0].resize_px, trained) > _FAR * min(seen, trained)
    ]
    if not far:
        return None
    name = f"center{trained}"
    return (
        f"warning: training sees {trained} px and other sizes are evaluated: {', '.join(far)}; for the same size add "
        f'train.validation={name} "evaluate.plans=[{name}]"'
    )


def require_safetensors(path: Path, key: str = "evaluate.weights") -> None:
    """Raises UserError, beginning with `key`, unless a file is of that kind; it says how to make one."""
    if recognise(path) != "safetensors":
        command = command_line("weights", "import", path, path.with_name(f"{path.stem}-imported.safetensors"))
        raise UserError(f"{key}: must be a safetensors file (given {path}); make one of it with: {command}")
