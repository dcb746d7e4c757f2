"""How score files are fused: an ensemble of networks, of crop plans, or of both."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.crop_plan import Averaging
from pipeline.config.section import Names, PositiveFloat, PositiveInt, Section, as_tuple


class FuseConfig(Section):
    """How score files are fused."""

    scores: Names = ()
    """Members besides the run's own plans: score files, folders of score files, or runs that are evaluated."""
    averaging: Averaging = "probabilities"
    """What is averaged over the members: softmax probabilities, or logits."""
    selection: Literal["none", "greedy"] = "none"
    """none: all members. greedy: members and weights are chosen on each half of the validation images, and judged on
    the other half."""
    member_weights: Annotated[str | tuple[PositiveFloat, ...] | None, BeforeValidator(as_tuple)] = None
    """Weights of the members instead of equal ones: a number for each, the run's own plans first; or the folder of a
    fusion whose weights they get, as for test images, which nothing can be chosen on."""
    bootstrap_samples: Annotated[PositiveInt, Field(ge=100)] = 2000
    """Resamples of the images for each interval."""

    @model_validator(mode="after")
    def _weights_given_or_chosen(self) -> Self:
        if self.member_weights is not None and self.selection != "none":
            raise ValueError("member_weights: are given or chosen, not both; leave them out or set selection to none")
        return self
