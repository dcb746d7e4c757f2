"""Each error on the way from ImageNet's recipe to images of one's own says what to write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch.command import parse
from launch.inputs import check_inputs
from pipeline.config.keys import all_keys
from pipeline.config.reader import load_config
from pipeline.ground.errors import UserError
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.conftest import REPOSITORY

RECIPE = REPOSITORY / "configs" / "senet154_1gpu.yaml"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            (tmp_path / "images" / split / name / "1.jpg").touch()
    return tmp_path / "images"


def check(images: Path, *overrides: str, recipe: Path = RECIPE) -> None:
    config = load_config(recipe, [f"data.root={images}", *overrides])
    check_inputs(config, place_stages(config, images.parent / "run", STAGES))


def refusal(images: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as raised:
        check(images, *overrides)
    return str(raised.value)


def test_one_answer_names_all_that_is_to_be_changed_and_then_nothing_is_left(images: Path) -> None:
    message = refusal(images)
    assert message == (
        f"data.dataset: the class folders of {images}/train are not those of ImageNet (ant, bee, cat, ...); for images "
        "of your own begin with configs/own_images.yaml, or add data.dataset=folder model.num_classes=null "
        "model.expect=null"
    )
    check(images, *message.rpartition(" or add ")[2].split())


def test_classes_that_were_miscounted_are_answered_before_a_stage_starts(images: Path) -> None:
    message = refusal(images, "data.dataset=folder")
    assert message == (
        f"model.num_classes: {images}/train has 4 class folders, ant, bee, cat, ... (given 1,000); to have "
        "them counted, add model.num_classes=null model.expect=null"
    )
    assert "(given 3)" in refusal(images, "data.dataset=folder", "num_classes=3", "expect=null")
    check(images, "data.dataset=folder", "num_classes=4", "expect=null")


def test_what_is_expected_of_another_number_of_classes_is_answered_before_a_stage_starts(images: Path) -> None:
    assert refusal(images, "data.dataset=folder", "num_classes=null") == (
        "model.expect: senet154 with 4 classes has 113,048,180 parameters (claimed: 115,088,984); the claim is of "
        "another number of classes: add model.expect=null"
    )


def test_class_folders_right_below_the_root_are_answered_with_a_held_out_share(images: Path) -> None:
    root = images / "train"
    message = refusal(root)
    assert message.endswith(
        " or add data.dataset=folder model.num_classes=null model.expect=null data.val_fraction=0.1"
    )
    check(root, *message.rpartition(" or add ")[2].split())
    assert refusal(root, "data.dataset=folder", "num_classes=null", "expect=null") == (
        f"data.val: no validation images in {root}; name their folder, or, to hold a tenth of each class out, add "
        "data.val_fraction=0.1"
    )
    check(root, recipe=REPOSITORY / "configs" / "own_images.yaml")


def test_folders_without_images_are_not_taken_for_classes(tmp_path: Path) -> None:
    (tmp_path / "data" / "meta").mkdir(parents=True)
    assert refusal(tmp_path / "data").startswith("data.train: must be a folder")


def test_a_part_of_imagenet_is_not_taken_for_others(images: Path) -> None:
    (images / "train" / "n01440764").mkdir()
    check(images)


def test_own_images_needs_no_more_than_the_root(images: Path) -> None:
    check(images, recipe=REPOSITORY / "configs" / "own_images.yaml")


def test_every_command_of_the_document_is_one(images: Path) -> None:
    text = (REPOSITORY / "docs" / "own_images.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("python -m launch ")]
    assert len(lines) >= 6
    for line in lines:
        arguments = parse(shlex.split(line)[3:])
        config = load_config(REPOSITORY / arguments.config, arguments.overrides)
        assert config.data.root == "/path/to/images", line
    for _, key in re.findall(r"(^|[`( ])([a-z_]+\.[a-z_]+)=", text):
        assert key in all_keys(), key
