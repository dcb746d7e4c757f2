from __future__ import annotations

from pipeline.config.crop_plan import BUILTIN_PLANS, CropPlan, CropView
from pipeline.data.window import Window
from pipeline.evaluation.crops import count_views, expand


def test_plan_expands_to_its_windows_in_order_each_with_its_own_mirroring() -> None:
    plan = CropPlan(
        name="two",
        views=(
            CropView(resize_px=256, crop_px=224, positions=("top_left", "center"), mirror=True),
            CropView(resize_px=320, crop_px=320),
        ),
    )
    assert expand(plan) == (
        (Window(256, 224, "top_left"), Window(256, 224, "center"), Window(320, 320, "center")),
        (True, True, False),
    )
    assert count_views(plan) == 5


def test_builtin_plans_have_the_views_of_their_names() -> None:
    assert {name: count_views(plan) for name, plan in BUILTIN_PLANS.items()} == {
        "center224": 1,
        "center320": 1,
        "10crop": 10,
    }
    corners_and_center = {window.position for window in expand(BUILTIN_PLANS["10crop"])[0]}
    assert corners_and_center == {"top_left", "top_right", "bottom_left", "bottom_right", "center"}
