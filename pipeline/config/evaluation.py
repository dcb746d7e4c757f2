"""The final evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import CropPlan, resolve_plan
from pipeline.config.section import PositiveInt, Section, as_tuple

EvaluatedSplit = Literal["val", "test"]


class ReportConfig(Section):
    """The report."""

    compare: str | None = None
    """Another run, evaluated on the same images: the report then says which classes gained and which lost."""


class EvaluateConfig(Section):
    """The final evaluation."""

    weights: str | None = None
    """A weight file to evaluate instead of the run's own weights."""
    split: EvaluatedSplit = "val"
    """val: validation images, with errors. test: the images of `data.test`, which have no labels; scores only."""
    plans: Annotated[tuple[str | CropPlan, ...], BeforeValidator(as_tuple), Field(min_length=1)] = ("center224",)
    """Built-in plans by name, YAML files (relative to the recipe) with a plan each, or plans written out."""
    batch: PositiveInt = 64
    """Crops that pass through the network at once."""

    @model_validator(mode="after")
    def _plans_known_and_distinct(self) -> Self:
        plans = self.resolved_plans()
        names = [plan.name for plan in plans]
        if len(set(names)) != len(names):
            raise ValueError(f"plans: each name once (given {names})")
        for number, plan in enumerate(plans):
            for other in plans[:number]:
                if (plan.averaging, plan.crops) == (other.averaging, other.crops):
                    raise ValueError(f"plans: '{other.name}' and '{plan.name}' are the same but for their names")
        return self

    def resolved_plans(self) -> tuple[CropPlan, ...]:
        """The plans, with built-in names looked up."""
        return tuple(resolve_plan(plan, "plans") for plan in self.plans)
