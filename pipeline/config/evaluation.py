"""The final evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import CropPlan, Plan, builtin_plan
from pipeline.config.section import IS_PATH, OPERATION, Names, PositiveInt, Section, as_names, as_tuple

EvaluatedSplit = Literal["val", "test"]


class ReportConfig(Section):
    """The report."""

    compare: Annotated[Names, OPERATION, IS_PATH, BeforeValidator(as_names)] = ()
    """Another run, or several, evaluated on the same images: the report then shows all side by side, with errors,
    recipes and classes."""
    activations: Annotated[bool, OPERATION] = False
    """Whether the report shows the gates of the squeeze-and-excitation blocks over the validation images (the paper's
    Figures 6 and 7). The stage `activations` then measures them, in two more passes over the images. Without effect on
    a network without blocks, and with `evaluate.split: test`."""


class EvaluateConfig(Section):
    """The final evaluation."""

    weights: Annotated[str | None, OPERATION, IS_PATH] = None
    """Weights to evaluate instead of the run's own: a file, a run, the directory of a stage or of a checkpoint, or
    `RUN/best`. They bring their own number of classes."""
    classes: Annotated[str | None, OPERATION, IS_PATH] = None
    """A JSON or CSV file that says of each class folder which class of the weights it is (name or number), for folders
    whose names do not say it."""
    split: EvaluatedSplit = "val"
    """val: validation images, with errors. test: the images of `data.test`, which have no labels; scores only."""
    plans: Annotated[tuple[Plan, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (builtin_plan("center224"),)
    """Built-in plans by name, YAML files (relative to the recipe) with a plan each, or plans written out."""
    batch: PositiveInt = 64
    """Crops per forward pass."""

    @property
    def one_crop(self) -> CropPlan:
        """The first plan of one crop of each image, which a report of the gates needs."""
        return next(plan for plan in self.plans if plan.is_one_crop)

    @model_validator(mode="after")
    def _plans_known_and_distinct(self) -> Self:
        names = [plan.name for plan in self.plans]
        if len(set(names)) != len(names):
            raise ValueError(f"plans: each name once (given {names})")
        for number, plan in enumerate(self.plans):
            for other in self.plans[:number]:
                if (plan.averaging, plan.crops) == (other.averaging, other.crops):
                    raise ValueError(f"plans: '{other.name}' and '{plan.name}' are the same but for their names")
        return self
