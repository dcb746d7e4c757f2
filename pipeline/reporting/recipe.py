"""The run's recipe beside the paper's, row by row, including the choices that the paper leaves open."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from pipeline.config.network import ModelConfig
from pipeline.config.training import ScheduleConfig
from pipeline.ground.counting import counted
from pipeline.paper.statements import Statement, row_of, statements
from pipeline.paper.tables import Row, read_table, table_names
from pipeline.reporting.finished_run import TRAINING_STAGES
from pipeline.reporting.record import RunRecord

Verdict = Literal["same", "differs", "open"]
Did = tuple[str, Any]
"""The run's choice, and the value of it to compare with the paper's."""


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
    """Return all rows; without those of training if the run evaluated weights that it did not train.

    The paper's side is that of the table which has the run's network; the contest's if there is none.
    """
    done = {**(_training(record) if record.is_trained else {}), **_evaluation(record)}
    model = record.config.model
    found = {name: row for name in table_names() for row in read_table(name).rows if _is_of(row, model)}
    rows = []
    for statement in statements(found):
        if statement.id not in done or (statement.id == "reduction" and found and model.block is None):
            continue
        if statement.id == "network" and statement.says is None:
            name, row = next(iter(found.items()))
            statement = dataclasses.replace(
                statement, says=row.name, source=read_table(name).source, values=(model.title,)
            )
        run, value = done[statement.id]
        rows.append(RecipeRow(statement.item, statement.says, statement.source, run, _verdict(statement, value)))
    return tuple(rows)


def _is_of(row: Row, model: ModelConfig) -> bool:
    return row.model is not None and ModelConfig.of_row(row).title == model.title


def _verdict(statement: Statement, value: Any) -> Verdict:
    if not statement.values:
        return "open"
    return "same" if any(_agrees(said, value) for said in statement.values) else "differs"


def _agrees(said: Any, value: Any) -> bool:
    if isinstance(said, tuple) and isinstance(value, tuple):
        return len(said) == len(value) and all(map(_agrees, said, value))
    return math.isclose(said, value) if isinstance(said, float) and isinstance(value, float) else bool(said == value)


def _training(record: RunRecord) -> dict[str, Did]:
    return {**_network(record), **_augmentation(record), **_optimisation(record), **_batch_norms(record)}


def _network(record: RunRecord) -> dict[str, Did]:
    model = record.config.model
    images, classes, dataset = len(record.indexes["train"]), len(record.val.classes), record.val.dataset
    block = "no block" if model.block is None else f"{model.block.reduction}"
    counted = f"{record.network['parameters'] / 1e6:.1f} M parameters" if record.network else f"{classes:,} classes"
    return {
        "network": (f"{model.title}, {counted}", model.title),
        "reduction": (block, None if model.block is None else model.block.reduction),
        "dropout": (f"{model.dropped_share:g}", model.dropped_share),
        "initialisation": ("He et al., normal, fan-in", "He et al."),
        "data": (f"{dataset}: {images:,}, {classes:,} classes", dataset),
    }


_DRAWN = {"log_uniform": "log-uniform", "uniform_swapped": "uniform, sides swapped by chance"}


def _augmentation(record: RunRecord) -> dict[str, Did]:
    config, augmentation = record.config, record.config.augmentation
    size = config.train.image_size_px
    area = f"{100 * augmentation.area[0]:g} to {100 * augmentation.area[1]:g} %"
    low, high = (_aspect(value) for value in augmentation.aspect)
    divided = config.input.std != (1.0, 1.0, 1.0)
    crop = f"{area} of the area, aspect {low} to {high}, {_DRAWN[augmentation.aspect_draw]}"
    shape: tuple[Any, ...] = ("resized", *augmentation.area, *augmentation.aspect, augmentation.cutout_px)
    interpolation = f"{augmentation.interpolation}, antialiased"
    if augmentation.crop == "padded":
        crop = f"{size} px of the image and {augmentation.padding_px} px around it ({augmentation.padding})"
        shape = ("padded", augmentation.padding_px, augmentation.padding, augmentation.cutout_px)
        interpolation = "none, since nothing is resized"
    if augmentation.cutout_px:
        crop += f"; a square of {augmentation.cutout_px} px left out (Cutout)"
    return {
        "image_size": (f"{size} px", size),
        "crop": (crop, shape),
        "flip": ("yes" if augmentation.flip else "no", augmentation.flip),
        "rotation": (
            _plus_minus(augmentation.rotation_degrees, f"°, {augmentation.rotate.replace('_', ' the ')}"),
            augmentation.rotation_degrees,
        ),
        "pixel_jitter": (_plus_minus(augmentation.pixel_jitter, " of 255"), augmentation.pixel_jitter),
        "normalisation": (
            "mean subtraction" + (" and division by the deviation" if divided else ""),
            "mean" + divided * " and deviation",
        ),
        "interpolation": (interpolation, augmentation.interpolation),
        "sampling": ("each image once an epoch", None),
    }


def _optimisation(record: RunRecord) -> dict[str, Did]:
    config, optim, schedule = record.config, record.config.optim, record.config.schedule
    drops = ", ".join(f"{epoch:g}" for epoch in schedule.drop_epochs)
    after = f"epochs {drops}" if drops else f"steps {', '.join(f'{step:,}' for step in schedule.drop_steps)}"
    step = f"times {schedule.drop_factor:g} after {after}" if drops or schedule.drop_steps else "constant"
    plateau = f"times {schedule.drop_factor:g} where the validation loss has settled"
    batch, smoothing = config.train.global_batch, config.train.label_smoothing
    return {
        "optimiser": (f"synchronous SGD, momentum {optim.momentum:g}", optim.momentum),
        "nesterov": ("yes" if optim.nesterov else "no", optim.nesterov),
        "global_batch": (f"{batch:,}", batch),
        "lr": (f"{optim.lr:g}", optim.lr),
        "epochs": (f"{record.epochs:,}", record.epochs),
        "schedule": ({"cosine": "cosine", "plateau": plateau}.get(schedule.kind, step), schedule.kind),
        "warmup": (_warmup(schedule), None),
        "weight_decay": (f"{optim.weight_decay:g}", optim.weight_decay),
        "decay": ("all parameters" if optim.decay == "all" else "all but batch norms and biases", optim.decay),
        "label_smoothing": (f"{smoothing:g}" if smoothing else "none", smoothing),
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
        "bn_freeze": (scope, frozen.scope if epochs else None),
        "bn_freeze_epochs": ("the last " + _epochs(epochs) if epochs else "none", epochs),
        "bn_momentum": (f"{config.model.bn_momentum:g} for the newest batch", config.model.bn_momentum),
        "bn_batch": (f"{micro_batch:,}", micro_batch),
        "hardware": (f"{world_size:,}", world_size),
        "precision": (f"{config.execution.precision}{layout}{compiled}", None),
    }


def _evaluation(record: RunRecord) -> dict[str, Did]:
    plans = record.config.evaluate.plans
    row = row_of(record.config.model.name)
    resize_px, crop_px = row.crop if row is not None and row.crop is not None else (256, 224)
    is_there = any(plan.center_crop == (resize_px, crop_px) for plan in plans)
    of320 = sorted({size[0] for plan in plans if (size := plan.center_crop) is not None and size[1] == 320})
    several = [plan.name for plan in plans if plan.center_crop is None]
    resized = ", ".join(map(str, of320))
    networks = len({member["weights_sha256"] for member in record.fusion["members"] if member["weight"] > 0})
    return {
        "center224": (f"centre {crop_px} px of {resize_px} px" if is_there else "not evaluated", is_there),
        "center320": (f"centre 320 px of {resized} px" if of320 else "not evaluated", None),
        "multicrop": (", ".join(several) or "not evaluated", None),
        "ensemble": ("one network" if networks == 1 else f"{networks} networks", networks > 1),
    }


def _epochs(number: float) -> str:
    return "one epoch" if number == 1 else f"{number:g} epochs"


def _aspect(value: float) -> str:
    names = {3 / 4: "3/4", 4 / 3: "4/3"}
    return next((name for exact, name in names.items() if math.isclose(value, exact)), f"{value:g}")


def _plus_minus(value: float, unit: str) -> str:
    return f"± {value:g}{unit}" if value else "none"
