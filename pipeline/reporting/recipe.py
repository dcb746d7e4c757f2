"""The run's recipe beside the paper's, row by row, including the choices that the paper leaves open."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from pipeline.config.training import ScheduleConfig
from pipeline.ground.counting import counted
from pipeline.paper.statements import contest_network, statements
from pipeline.reporting.record import TRAINING_STAGES, RunRecord

Verdict = Literal["same", "differs", "open"]
Did = tuple[str, bool]
"""The run's choice, and whether it is the paper's (ignored if the paper has none)."""


@dataclasses.dataclass(frozen=True)
class RecipeRow:
    """One part of the recipe, in the paper and in this run."""

    item: str
    paper: str | None
    source: str
    run: str
    verdict: Verdict
    """open: the paper does not say, and the run had to choose."""


def compare_recipe(record: RunRecord) -> tuple[RecipeRow, ...]:
    """Return all rows; without those of training if the run evaluated weights that it did not train."""
    done = {**(_training(record) if record.is_trained else {}), **_evaluation(record)}
    said = (*(statements("training") if record.is_trained else ()), *statements("evaluation"))
    rows = []
    for statement in said:
        run, agrees = done[statement.id]
        verdict: Verdict = "open" if statement.says is None else "same" if agrees else "differs"
        rows.append(RecipeRow(statement.item, statement.says, statement.source, run, verdict))
    return tuple(rows)


def _training(record: RunRecord) -> dict[str, Did]:
    return {**_network(record), **_augmentation(record), **_optimisation(record), **_batch_norms(record)}


def _network(record: RunRecord) -> dict[str, Did]:
    model = record.config.model
    images, classes, dataset = len(record.indexes["train"]), len(record.val.classes), record.val.dataset
    block = "no block" if model.block is None else f"{model.block.reduction}"
    counted = f"{record.network['parameters'] / 1e6:.1f} M parameters" if record.network else f"{classes:,} classes"
    return {
        "network": (f"{model.title}, {counted}", model.title == contest_network()),
        "reduction": (block, model.block is not None and model.block.reduction == 16),
        "dropout": (f"{model.dropped_share:g}", model.dropped_share == 0.2),
        "initialisation": ("He et al., normal, fan-in", True),
        "data": (f"{dataset}: {images:,}, {classes:,} classes", dataset == "imagenet"),
    }


_DRAWN = {"log_uniform": "log-uniform", "uniform_swapped": "uniform, sides swapped by chance"}


def _augmentation(record: RunRecord) -> dict[str, Did]:
    config, augmentation = record.config, record.config.augmentation
    size = config.train.image_size_px
    area = f"{100 * augmentation.area[0]:g} to {100 * augmentation.area[1]:g} %"
    low, high = (_aspect(value) for value in augmentation.aspect)
    as_the_paper = augmentation.area == (0.08, 1.0) and math.isclose(augmentation.aspect[0], 3 / 4)
    divided = config.input.std != (1.0, 1.0, 1.0)
    crop = f"{area} of the area, aspect {low} to {high}, {_DRAWN[augmentation.aspect_draw]}"
    interpolation = f"{augmentation.interpolation}, antialiased"
    if augmentation.crop == "padded":
        crop = f"{size} px of the image and {augmentation.padding_px} px around it ({augmentation.padding})"
        interpolation = "none, since nothing is resized"
    if augmentation.cutout_px:
        crop += f"; a square of {augmentation.cutout_px} px left out (Cutout)"
    return {
        "image_size": (f"{size} px", size in (224, 320)),
        "crop": (
            crop,
            as_the_paper
            and math.isclose(augmentation.aspect[1], 4 / 3)
            and (augmentation.crop, augmentation.cutout_px) == ("resized", 0),
        ),
        "flip": ("yes" if augmentation.flip else "no", augmentation.flip),
        "rotation": (
            _plus_minus(augmentation.rotation_degrees, f"°, {augmentation.rotate.replace('_', ' the ')}"),
            augmentation.rotation_degrees == 10,
        ),
        "pixel_jitter": (_plus_minus(augmentation.pixel_jitter, " of 255"), augmentation.pixel_jitter == 20),
        "normalisation": ("mean subtraction" + (" and division by the deviation" if divided else ""), not divided),
        "interpolation": (interpolation, True),
        "sampling": ("each image once an epoch", True),
    }


def _optimisation(record: RunRecord) -> dict[str, Did]:
    config, optim, schedule = record.config, record.config.optim, record.config.schedule
    drops = ", ".join(f"{epoch:g}" for epoch in schedule.drop_epochs)
    after = f"epochs {drops}" if drops else f"steps {', '.join(f'{step:,}' for step in schedule.drop_steps)}"
    step = f"times {schedule.drop_factor:g} after {after}" if drops or schedule.drop_steps else "constant"
    plateau = f"times {schedule.drop_factor:g} where the validation loss has settled"
    batch, smoothing = config.train.global_batch, config.train.label_smoothing
    return {
        "optimiser": (f"synchronous SGD, momentum {optim.momentum:g}", optim.momentum == 0.9),
        "nesterov": ("yes" if optim.nesterov else "no", True),
        "global_batch": (f"{batch:,}", batch == 2048),
        "lr": (f"{optim.lr:g}", optim.lr == 1.0),
        "epochs": (f"{record.epochs:,}", True),
        "schedule": ({"cosine": "cosine", "plateau": plateau}.get(schedule.kind, step), True),
        "warmup": (_warmup(schedule), True),
        "weight_decay": (f"{optim.weight_decay:g}", True),
        "decay": ("all parameters" if optim.decay == "all" else "all but batch norms and biases", True),
        "label_smoothing": (f"{smoothing:g}" if smoothing else "none", smoothing == 0.1),
    }


def _warmup(schedule: ScheduleConfig) -> str:
    if not (schedule.warmup_epochs or schedule.warmup_steps):
        return "none"
    length = counted(schedule.warmup_steps, "step") if schedule.warmup_steps else _epochs(schedule.warmup_epochs)
    return f"{length}, " + ("linear" if schedule.warmup_lr is None else f"at {schedule.warmup_lr:g}")


def _batch_norms(record: RunRecord) -> dict[str, Did]:
    config = record.config
    epochs, frozen = config.train.frozen_epochs, config.freeze_bn
    if not epochs:
        scope = "not frozen"
    elif frozen.scope == "statistics":
        scope = "statistics; gamma and beta go on learning"
    else:
        scope = "statistics, gamma and beta"
    if epochs and frozen.statistics == "recompute":
        scope += f" (computed anew over {frozen.statistics_images:,} images)"
    stage = next(record.stages[name] for name in TRAINING_STAGES if name in record.stages)
    world_size, micro_batch = (stage.metrics[name] for name in ("world_size", "micro_batch"))
    layout = ", channels-last" if config.execution.channels_last else ""
    compiled = ", compiled" if config.execution.compile else ""
    return {
        "bn_freeze": (scope, bool(epochs) and frozen.scope == "statistics_and_affine"),
        "bn_freeze_epochs": ("the last " + _epochs(epochs) if epochs else "none", True),
        "bn_momentum": (f"{config.model.bn_momentum:g} for the newest batch", True),
        "bn_batch": (f"{micro_batch:,}", True),
        "hardware": (f"{world_size:,}", world_size == 64),
        "precision": (f"{config.execution.precision}{layout}{compiled}", True),
    }


def _evaluation(record: RunRecord) -> dict[str, Did]:
    plans = record.config.evaluate.plans
    of224 = [plan for plan in plans if plan.center_crop == (256, 224)]
    of320 = sorted({size[0] for plan in plans if (size := plan.center_crop) is not None and size[1] == 320})
    several = [plan.name for plan in plans if plan.center_crop is None]
    resized = ", ".join(map(str, of320))
    networks = len({member["weights_sha256"] for member in record.fusion["members"] if member["weight"] > 0})
    return {
        "center224": ("the same" if of224 else "not evaluated", bool(of224)),
        "center320": (f"centre 320 px of {resized} px" if of320 else "not evaluated", True),
        "multicrop": (", ".join(several) or "not evaluated", True),
        "ensemble": ("one network" if networks == 1 else f"{networks} networks", networks > 1),
    }


def _epochs(number: float) -> str:
    return "one epoch" if number == 1 else f"{number:g} epochs"


def _aspect(value: float) -> str:
    names = {3 / 4: "3/4", 4 / 3: "4/3"}
    return next((name for exact, name in names.items() if math.isclose(value, exact)), f"{value:g}")


def _plus_minus(value: float, unit: str) -> str:
    return f"± {value:g}{unit}" if value else "none"
