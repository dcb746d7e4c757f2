from __future__ import annotations

import pytest
import torchvision.models

from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_plan
from pipeline.interop.known import KNOWN, Published, compare, compare_accuracy, file_of, published
from pipeline.interop.layout import layouts_of
from pipeline.networks.registry import NETWORKS

SENET = {"model": "senet154", "num_classes": "1000"}
FILES = {known.file: known for known in KNOWN}
CADENE, LEGACY = FILES["senet154-c7b49a05.pth"], FILES["legacy_senet154-e9eb9fe6.pth"]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.file)
def test_a_public_file_is_known_by_its_checksum(known: Published) -> None:
    sha256 = known.sha256_prefix + "0" * 56
    network = {"model": known.model, "num_classes": "1000"}
    assert file_of(sha256) is known
    assert known.model in NETWORKS
    assert known.layout in layouts_of(known.model)
    assert published(network | {"source_sha256": sha256}) is known
    assert published(network | {"source_sha256": "f" * 64}) is None
    assert published(network | {"source_sha256": sha256, "model": "senet_nano"}) is None
    assert published(network | {"source_sha256": sha256, "num_classes": "10"}) is None


def test_torchvision_s_figures_are_those_that_it_ships() -> None:
    ours = {known.file: known for known in KNOWN if known.layout == "torchvision"}
    theirs = {}
    for model in {known.model for known in ours.values()}:
        for weights in torchvision.models.get_model_weights(model):
            file, figures = weights.url.rpartition("/")[2], weights.meta["_metrics"]["ImageNet-1K"]
            errors = [round(100 - figures[key], 3) for key in ("acc@1", "acc@5")]
            seen = weights.transforms()
            if seen.crop_size == [224]:
                theirs[file] = (model, *errors, *seen.resize_size, *seen.crop_size)
    found = {
        known.file: (known.model, known.top1_error_percent, known.top5_error_percent, known.resize_px, known.crop_px)
        for known in ours.values()
    }
    assert found == {file: told for file, told in theirs.items() if file.partition("-")[0] in NETWORKS}
    assert len(found) == 9


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


def test_figures_are_compared_with_the_crop_that_they_were_taken_with() -> None:
    file = "resnet50-11ad3fa6.pth"
    own = CropPlan(name="mine", crops=(CropGroup(resize_px=232, crop_px=224),))
    assert compare(FILES[file], own, 50_000, 19.142, 4.566).endswith("+0.000 / +0.000, within 0.06 of it")
    text = compare(FILES[file], builtin_plan("center224"), 50_000, 19.142, 4.566)
    assert "validation images with center224of232; not comparable with center224 of 50,000 images" in text
    assert FILES["inceptionresnetv2-520b38e4.pth"].plan.crops == (CropGroup(resize_px=341, crop_px=299),)


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
