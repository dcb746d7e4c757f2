"""Which squares of an image the network sees when it is evaluated."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.section import PositiveInt, Section, as_tuple

Position = Literal["center", "top_left", "top_right", "bottom_left", "bottom_right"]


class CropView(Section):
    """Squares cut from the image after its shorter side was resized."""

    resize_px: PositiveInt
    crop_px: PositiveInt
    positions: Annotated[tuple[Position, ...], BeforeValidator(as_tuple)] = ("center",)
    mirror: bool = False
    """Whether each square is also seen mirrored."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop_px > self.resize_px:
            raise ValueError(
                f"crop_px: must not exceed resize_px (given crop_px {self.crop_px}, resize_px {self.resize_px})"
            )
        if not self.positions or len(set(self.positions)) != len(self.positions):
            raise ValueError(f"positions: at least one, each once (given {list(self.positions)})")
        return self


class CropPlan(Section):
    """Views of an image whose class probabilities are averaged."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    views: Annotated[tuple[CropView, ...], BeforeValidator(as_tuple), Field(min_length=1)]


_CORNERS: tuple[Position, ...] = ("top_left", "top_right", "bottom_left", "bottom_right", "center")
BUILTIN_PLANS: dict[str, CropPlan] = {
    plan.name: plan
    for plan in (
        # Section 5.1 of the paper: shorter side 256, centre 224.
        CropPlan(name="center224", views=(CropView(resize_px=256, crop_px=224),)),
        # The paper does not say what its 320 crops were resized from; 320 of 320 is what its reference [15] did.
        CropPlan(name="center320", views=(CropView(resize_px=320, crop_px=320),)),
        CropPlan(name="10crop", views=(CropView(resize_px=256, crop_px=224, positions=_CORNERS, mirror=True),)),
    )
}


def resolve_plan(plan: str | CropPlan, key: str) -> CropPlan:
    """The plan itself, or the built-in one of that name; ValueError names the key and the built-in plans."""
    if isinstance(plan, CropPlan):
        return plan
    if plan not in BUILTIN_PLANS:
        raise ValueError(f"{key}: no built-in crop plan '{plan}' (there are: {', '.join(BUILTIN_PLANS)})")
    return BUILTIN_PLANS[plan]
