from __future__ import annotations

import pytest

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_names, builtin_plan
from pipeline.data.crop import Crop
from pipeline.evaluation.expansion import PlannedCrop, count_crops, expand, images_at_once


def test_plan_expands_to_its_crops_in_order_each_with_its_own_mirroring_and_weight() -> None:
    plan = CropPlan(
        name="three",
        crops=(
            CropGroup(resize_px=256, crop_px=224, positions=("top_left", "center"), mirror=True),
            CropGroup(resize_px=320, crop_px=224, squares=("first", "last"), positions=("whole",), weight=2.0),
            CropGroup(resize_px=288, dense="sliding"),
        ),
    )
    assert expand(plan, "bilinear") == (
        PlannedCrop(Crop(256, 224, "top_left", None, "bilinear"), True, 1.0, None),
        PlannedCrop(Crop(256, 224, "center", None, "bilinear"), True, 1.0, None),
        PlannedCrop(Crop(320, 224, "whole", "first", "bilinear"), False, 2.0, None),
        PlannedCrop(Crop(320, 224, "whole", "last", "bilinear"), False, 2.0, None),
        PlannedCrop(Crop(288, None, None, None, "bilinear"), False, 1.0, "sliding"),
    )
    assert count_crops(plan) == 7


def test_builtin_plans_have_the_crops_of_their_names() -> None:
    assert {name: count_crops(builtin_plan(name)) for name in builtin_names()} == {
        "center224": 1,
        "center320": 1,
        "center320_sliding": 1,
        "10crop": 10,
        "144crop": 144,
        "multiscale": 30,
        "dense": 2,
        "dense_sliding": 2,
    }
    corners_and_center = {seen.crop.position for seen in expand(builtin_plan("10crop"))}
    assert corners_and_center == {"top_left", "top_right", "bottom_left", "bottom_right", "center"}


@pytest.mark.parametrize("name", builtin_names())
def test_crops_of_the_images_decoded_at_once_stay_within_64_mib(name: str) -> None:
    plan = builtin_plan(name)
    images = images_at_once(plan, batch=256)
    # A whole image is counted as one of ImageNet's usual 4:3.
    areas = [seen.crop.crop_px**2 if seen.crop.crop_px else seen.crop.resize_px**2 * 4 // 3 for seen in expand(plan)]
    assert 1 <= images <= 256
    assert images * 3 * sum(areas) <= 64 * 2**20


def test_plans_of_few_crops_are_decoded_a_batch_at_a_time_and_at_least_one_image_is() -> None:
    assert images_at_once(builtin_plan("10crop"), batch=64) == 64
    huge = CropPlan(name="huge", crops=tuple(CropGroup(resize_px=5000 + px, crop_px=5000) for px in range(3)))
    assert images_at_once(huge, batch=64) == 1
