"""Another valid value for every leaf of the schema, so that tests can walk all of them."""

from __future__ import annotations

import typing
from typing import Any

from pipeline.config.crop_plan import builtin_plan
from pipeline.config.identity import Leaf
from pipeline.config.schema import Config

_SPECIAL: dict[str, Any] = {
    "name": "other",
    "data.dataset": "imagenet",
    "data.root": "/elsewhere",
    "data.train": "training",
    "data.val": "validation",
    "data.test": "test",
    "data.val_ground_truth": None,  # a file of the test's own
    "data.val_fraction": 0.5,
    "data.exclude": ("train/a/b.jpg",),
    "data.shards": "/shards",
    "input.mean": (1.0, 2.0, 3.0),
    "input.std": (1.0, 2.0, 3.0),
    "model.name": "senet154",
    "model.se": {"reduction": 4},
    "model.dropout": 0.5,
    "augmentation.area": (0.5, 1.0),
    "augmentation.aspect": (0.5, 2.0),
    "schedule.drop_epochs": (2.0,),
    "schedule.drop_steps": (5,),
    "evaluate.plans": (builtin_plan("10crop"),),
    "train.validation": builtin_plan("center320"),
    "train.frozen_epochs": 1,
    "fuse.member_weights": (1.0,),
}
_PADDED = {"augmentation.crop": "padded", "augmentation.rotation_degrees": 0.0}
_NEEDED_WITH: dict[str, dict[str, Any]] = {
    "augmentation.crop": {"augmentation.rotation_degrees": 0.0},
    "augmentation.padding_px": _PADDED,
    "augmentation.padding": {**_PADDED, "data.dataset": "cifar10", "model.num_classes": 10},
    "data.dataset": {"model.num_classes": 1000},
    "data.resize_train_px": {"data.shards": "/shards"},
    "data.val_ground_truth": {"data.dataset": "imagenet", "model.num_classes": 1000},
    "data.test": {"data.dataset": "imagenet", "model.num_classes": 1000},
    "train.only_head": {"model.weights": __file__},
    "schedule.kind": {"schedule.drop_epochs": ()},
    "schedule.drop_steps": {"schedule.drop_epochs": ()},
    "schedule.warmup_steps": {"schedule.warmup_epochs": 0.0},
    "schedule.warmup_lr": {"schedule.warmup_epochs": 1.0},
    **{
        f"schedule.{name}": {"schedule.kind": "plateau", "schedule.drop_epochs": ()}
        for name in ("patience", "threshold", "smallest_lr", "max_drops")
    },
    "model.stride_in_3x3": {"model.name": "resnet_nano"},
    "evaluate.split": {"data.dataset": "imagenet", "model.num_classes": 1000, "data.test": "test"},
    **{
        f"model.expect.{name}": {"model.expect.parameters": 1, "model.expect.gmacs": 1.0}
        for name in ("parameters", "gmacs", "image_size_px", "layer_table")
    },
}
"""What else must be set for a leaf's change to be valid: given to the recipe before and after the change."""


def changed(base: Config, leaf: Leaf, file: str) -> tuple[Config, Config]:
    """A recipe and the same with another value of one leaf. `file` is a file or folder for keys that name one."""
    fields = base.model_dump()
    given = dict(_NEEDED_WITH.get(leaf.name, {}))
    engine = leaf.section if leaf.section in ("apex", "deepspeed") else None
    if engine is not None:
        given["engine"] = engine
        fields.pop("native", None)
    before = _with(fields, given)
    after = _with(before, {leaf.name: _other(before, leaf, file)})
    if leaf.name == "engine":
        after.pop("native")
    return Config.model_validate(before), Config.model_validate(after)


def _with(fields: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    result = {name: dict(value) if isinstance(value, dict) else value for name, value in fields.items()}
    for dotted, value in values.items():
        *sections, last = dotted.split(".")
        place = result
        for section in sections:
            place[section] = dict(place.get(section) or {})
            place = place[section]
        place[last] = value
    return result


def _other(fields: dict[str, Any], leaf: Leaf, file: str) -> Any:
    if _SPECIAL.get(leaf.name) is not None:
        return _SPECIAL[leaf.name]
    value: Any = fields
    for name in leaf.name.split("."):
        value = (value or {}).get(name)
    choices = _literals(leaf.field.annotation)
    if choices:
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool) or leaf.field.annotation is bool:
        return not value
    if isinstance(value, int):
        return value + 24 if leaf.name == "train.global_batch" else value + 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.5
    if "int" in str(leaf.field.annotation):
        return 40
    if "float" in str(leaf.field.annotation):
        return 1.5
    return (file,) if "tuple" in str(leaf.field.annotation) else file


def _literals(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return next((found for each in typing.get_args(annotation) if (found := _literals(each))), ())
