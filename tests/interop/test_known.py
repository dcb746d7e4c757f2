from __future__ import annotations

import pytest

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_plan
from pipeline.interop.known import KNOWN, Published, compare, compare_accuracy, published

SENET = {"model": "senet154", "num_classes": "1000"}
CADENE, LEGACY, GLUON, *_ = KNOWN


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.file)
def test_a_public_file_is_known_by_its_checksum(known: Published) -> None:
    sha256 = known.sha256_prefix + "0" * 56
    network = {"model": known.model, "num_classes": "1000"}
    assert known.sha256_prefix in known.file
    assert published(network | {"source_layout": known.layout, "source_sha256": sha256}) is known
    assert published(network | {"source_layout": known.layout, "source_sha256": "f" * 64}) is None
    assert published({"source_layout": known.layout, "source_sha256": sha256, "model": "senet_nano"}) is None


def test_nothing_is_said_of_the_authors_file_whose_checksum_is_not_public():
    assert published(SENET | {"source_layout": "caffe", "source_sha256": "f" * 64}) is None


def test_weights_that_were_not_imported_are_not_known():
    assert published(SENET | {"stage": "train"}) is None
    assert published({}) is None


def test_figures_within_the_tolerance_are_said_to_be():
    text = compare(LEGACY, builtin_plan("center224"), 50_000, 18.720, 4.438)
    assert text == (
        "timm (legacy_senet154.in1k) reports 18.68 / 4.498 % top-1 / top-5 error for legacy_senet154-e9eb9fe6.pth; "
        "here 18.720 / 4.438 %: +0.040 / -0.060, within 0.06 of it"
    )


@pytest.mark.parametrize(("top1", "top5"), [(18.742, 4.498), (18.680, 4.437)])
def test_figures_beyond_the_tolerance_are_said_to_be(top1, top5):
    assert compare(LEGACY, builtin_plan("center224"), 50_000, top1, top5).endswith("MORE than 0.06 off")


@pytest.mark.parametrize(("plan", "images"), [("center320", 50_000), ("center224", 500)])
def test_other_crops_and_other_images_are_not_compared(plan, images):
    text = compare(CADENE, builtin_plan(plan), images, 1.0, 1.0)
    assert text == (
        "Cadene reports 18.696 / 4.502 % top-1 / top-5 error for senet154-c7b49a05.pth, on ILSVRC 2012's "
        f"50,000 validation images with center224; not comparable with {plan} of {images:,} images"
    )


def test_another_plan_of_that_name_is_not_compared():
    own = CropPlan(name="center224", crops=(CropGroup(resize_px=224, crop_px=224),))
    assert "not comparable with center224 of 50,000 images" in compare(CADENE, own, 50_000, 18.68, 4.47)


@pytest.mark.parametrize(
    ("images", "classes", "told"),
    [
        (10_000, 1000, "70.49 % top-1 accuracy for legacy_senet154-e9eb9fe6.pth on ImageNet-V2, matched frequency"),
        (7_500, 200, "18.93 % top-1 accuracy among its 200 classes for legacy_senet154-e9eb9fe6.pth on ImageNet-A"),
        (30_000, 200, "42.32 % top-1 accuracy among its 200 classes for legacy_senet154-e9eb9fe6.pth on ImageNet-R"),
    ],
)
def test_another_set_is_known_by_its_images_and_classes(images, classes, told):
    other = LEGACY.other_set(images, classes)
    assert other is not None
    result = {"top1_error_percent": 29.0, "restricted_top1_error_percent": 29.0}
    text = compare_accuracy(LEGACY, other, builtin_plan("center224"), result)
    assert told in text
    assert f"here 71.00 %: {71 - other.top1_accuracy_percent:+.2f}" in text
    assert "not comparable with 10crop" in compare_accuracy(LEGACY, other, builtin_plan("10crop"), result)


def test_figures_of_another_set_are_those_of_one_file_alone():
    assert LEGACY.other_set(10_000, 999) is None
    assert CADENE.other_set(10_000, 1000) is None
