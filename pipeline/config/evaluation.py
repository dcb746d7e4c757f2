"""The final evaluation."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import CropPlan, resolve_plan
from pipeline.config.section import PositiveInt, Section, as_tuple


class EvaluateConfig(Section):
    """The final evaluation."""

    weights: str | None = None
    """A weight file to evaluate instead of the run's own weights."""
    plans: Annotated[tuple[str | CropPlan, ...], BeforeValidator(as_tuple), Field(min_length=1)] = ("center224",)
    """Built-in plans by name (center224, center320, 10crop), or plans written out."""
    batch: PositiveInt = 64
    """Images decoded at once; each passes through the network once per view."""

    @model_validator(mode="after")
    def _plans_known_and_distinct(self) -> Self:
        names = [resolve_plan(plan, "plans").name for plan in self.plans]
        if len(set(names)) != len(names):
            raise ValueError(f"plans: each name once (given {names})")
        return self

    def resolved_plans(self) -> tuple[CropPlan, ...]:
        """The plans, with built-in names looked up."""
        return tuple(resolve_plan(plan, "plans") for plan in self.plans)
