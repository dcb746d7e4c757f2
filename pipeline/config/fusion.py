"""Fusion of score files: an ensemble of networks, of crop plans, or of both."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import Averaging
from pipeline.config.section import IS_PATH, OPERATION, Names, PositiveFloat, PositiveInt, Section, as_tuple


class FuseConfig(Section):
    """Fusion of score files."""

    scores: Annotated[Names, OPERATION, IS_PATH] = ()
    """Members besides the run's own plans: score files, folders of score files, or runs that are evaluated."""
    averaging: Averaging = "probabilities"
    """Average softmax probabilities over the members, or logits."""
    selection: Literal["none", "greedy"] = "none"
    """none: all members. greedy: members and weights are chosen on each half of the validation images, and judged on
    the other half."""
    member_weights: Annotated[tuple[PositiveFloat, ...] | None, BeforeValidator(as_tuple)] = None
    """Weights of the members instead of equal ones: a number for each, the run's own plans first."""
    weights_from: Annotated[str | None, OPERATION, IS_PATH] = None
    """Folder of a fusion whose weights the members get: for test images, which have no labels to choose weights on."""
    bootstrap_samples: Annotated[PositiveInt, Field(ge=100)] = 2000
    """Resamples of the images for each confidence interval."""

    @model_validator(mode="after")
    def _weights_given_or_chosen(self) -> Self:
        if self.member_weights is not None and self.weights_from is not None:
            raise ValueError("weights_from: member_weights are given too; leave one of the two out")
        for name in ("member_weights", "weights_from"):
            if getattr(self, name) is not None and self.selection != "none":
                raise ValueError(f"{name}: are given or chosen, not both; leave it out or set selection to none")
        return self
