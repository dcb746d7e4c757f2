from __future__ import annotations

import re

from pipeline.config.crop_plan import CropPlan, builtin_plan
from pipeline.reporting.crop_drawing import crop_drawing


def rectangles(drawing: str, *, of_crops: bool = True) -> list[dict[str, int]]:
    """Place and size of every rectangle of a drawing."""
    found = re.findall(r"<rect( class=\"crop\")?([^/]+)/>", drawing)
    return [
        {name: int(value) for name, value in re.findall(r'(\w+)="(\d+)"', given)}
        for crop, given in found
        if bool(crop) == of_crops
    ]


def test_crops_are_drawn_where_they_are_taken() -> None:
    (crop,) = rectangles(crop_drawing(builtin_plan("center224"), 500, 375))
    assert crop == {"x": 58, "y": 16, "width": 224, "height": 224}
    drawing = crop_drawing(builtin_plan("10crop"), 375, 500)
    assert rectangles(drawing, of_crops=False) == [{"width": 256, "height": 341}]
    places = [(crop["x"], crop["y"]) for crop in rectangles(drawing)]
    assert places == [(0, 0), (32, 0), (0, 117), (32, 117), (16, 58)]


def test_each_scale_is_an_image_of_its_own_side_by_side_on_one_line() -> None:
    drawing = crop_drawing(builtin_plan("144crop"), 500, 375)
    assert [image["height"] for image in rectangles(drawing, of_crops=False)] == [256, 288, 320, 352]
    assert re.findall(r"translate\((\d+) (\d+)\)", drawing) == [
        ("0", "96"),
        ("394", "64"),
        ("831", "32"),
        ("1310", "0"),
    ]
    assert len(rectangles(drawing)) == 4 * 3 * 6
    assert 'viewBox="0 0 1779 352"' in drawing


def test_a_dense_plan_takes_the_whole_image() -> None:
    plan = CropPlan.model_validate({"name": "d", "crops": [{"resize_px": 64, "dense": "global"}]})
    assert rectangles(crop_drawing(plan, 100, 50)) == [{"width": 128, "height": 64}]
