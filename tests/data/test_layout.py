"""What the config promises against what lies in the folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import DataConfig
from pipeline.data.layout import Layout, lay_out
from pipeline.data.recognition import check_places
from pipeline.ground.errors import UserError


def write_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_files(tmp_path, "train/b/1.jpg", "train/b/2.jpg", "train/a/1.jpg", "val/a/9.jpg", "val/b/9.jpg")
    return tmp_path


def lay_out_folder(root: Path, split: str = "train", wanted: tuple[str, ...] = ("train", "val"), **keys: Any) -> Layout:
    data = DataConfig(dataset="folder", root=str(root), **keys)
    return lay_out(data, split, wanted, root / "unused")


def test_labels_are_places_in_the_sorted_order_of_the_folders(root: Path) -> None:
    layout = lay_out_folder(root)
    assert [(one.label, one.folder, one.words, one.ilsvrc2012_id) for one in layout.classes] == [
        (0, "a", "a", None),
        (1, "b", "b", None),
    ]
    assert list(zip(layout.names, layout.labels, strict=True)) == [("a/1.jpg", 0), ("b/1.jpg", 1), ("b/2.jpg", 1)]
    assert layout.source.file("b/1.jpg", 1) == f"{root}/train/b/1.jpg"
    assert layout.findings == []
    val = lay_out_folder(root, "val")
    assert (val.names, val.labels, val.classes) == (["a/9.jpg", "b/9.jpg"], [0, 1], layout.classes)


def test_split_folders_may_have_other_names(root: Path) -> None:
    (root / "val").rename(root / "test")
    assert lay_out_folder(root, "val", val="test").source.folder == root / "test"


def test_a_split_alone_needs_no_other(root: Path) -> None:
    shutil.rmtree(root / "train")
    layout = lay_out_folder(root, "val", ("val",), exclude=("train/b/1.jpg",))
    assert [one.folder for one in layout.classes] == ["a", "b"]
    assert layout.names == ["a/9.jpg", "b/9.jpg"]


def test_names_that_are_not_utf8_are_refused(root: Path) -> None:
    write_files(root, "val/a/caf\udce9.jpg", "val/a/café.jpg")
    with pytest.raises(
        UserError, match=r"data\.val: names that are not UTF-8 in .*/val; rename them: 'a/caf\\udce9\.jpg'"
    ):
        lay_out_folder(root)


def test_hidden_files_and_strays_are_passed_over_and_listed(root: Path) -> None:
    write_files(root, "train/.DS_Store", "train/a/._1.jpg", "train/a/Thumbs.db", "val/.cache/x", "train/b.tar")
    layout = lay_out_folder(root)
    assert [one.folder for one in layout.classes] == ["a", "b"]
    assert len(layout.names) == 3
    findings = layout.findings + lay_out_folder(root, "val").findings
    assert {(found.name, found.finding, found.severity) for found in findings} == {
        (name, "ignored", "notice")
        for name in ("train/.DS_Store", "train/a/._1.jpg", "train/a/Thumbs.db", "val/.cache", "train/b.tar")
    }


def test_excluded_images_are_left_out_and_listed(root: Path) -> None:
    layout = lay_out_folder(root, exclude=("train/b/1.jpg",))
    assert layout.names == ["a/1.jpg", "b/2.jpg"]
    assert [(found.name, found.finding, found.severity) for found in layout.findings] == [
        ("train/b/1.jpg", "excluded", "notice")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/b/2.jpeg", r"data\.exclude: there is no train/b/2\.jpeg; did you mean train/b/2\.jpg"),
        ("b/2.jpg", r"there is no b/2\.jpg \(names begin with train/ or val/\)"),
        ("val/zz/xyz", r"there is no val/zz/xyz$"),
    ],
)
def test_excluding_what_is_not_there_is_an_error(root: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lay_out_folder(root, exclude=(name,))


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.root: must be a folder \(given {tmp_path}/nowhere\)"):
        lay_out_folder(tmp_path / "nowhere")


def test_both_splits_missing_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_places(DataConfig(dataset="folder", root=str(tmp_path)), ("train", "val"))
    assert str(caught.value).splitlines()[:3] == [
        f"data.train: must be a folder (given {tmp_path}/train); to evaluate weights without training, name them: "
        "evaluate.weights=FILE",
        f"data.val: must be a folder (given {tmp_path}/val)",
        f"there is in {tmp_path}: nothing",
    ]


@pytest.mark.parametrize(
    ("folder", "data", "said"),
    [
        ("val", {}, "/val holds the class folders; data.root is the folder above: data.root={root}"),
        ("val/a", {}, "/val/a holds images; data.root is the folder of val, two above them, as in data.root={root}"),
        ("val", {"val": "validation"}, "/val holds class folders; to take them as they are: data.val=."),
    ],
)
def test_a_root_that_is_too_deep_is_answered_with_the_right_one(
    tmp_path: Path, folder: str, data: dict[str, Any], said: str
) -> None:
    write_files(tmp_path, "val/a/9.jpg", "val/b/9.jpg")
    with pytest.raises(UserError) as caught:
        check_places(DataConfig(dataset="folder", root=str(tmp_path / folder), **data), ("val",))
    assert str(caught.value).splitlines()[1].endswith(said.format(root=tmp_path))


@pytest.mark.parametrize("names", [["train/a/1.jpg", "test/1.jpg"], ["train/a/1.jpg", "logo.png"]])
def test_a_root_with_one_of_its_splits_is_not_taken_for_another_place(tmp_path: Path, names: list[str]) -> None:
    write_files(tmp_path, *names)
    with pytest.raises(UserError) as caught:
        check_places(DataConfig(dataset="folder", root=str(tmp_path)), ("train", "val"))
    first, second = str(caught.value).splitlines()[:2]
    assert first.startswith("data.val: must be a folder")
    assert second.startswith(f"there is in {tmp_path}: ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"data\.val: .*/val must hold one folder per class \(it holds nothing\)"),
        (["1.jpg", "2.jpg"], r"must hold one folder per class \(it holds 2 files and no folder\)"),
        (["a/.keep", "b/.keep"], r"no images in .*/val \(all of its 2 class folders are empty\)"),
        (["a/1.jpg", "b/.keep"], r"data\.val: classes without images in .*/val: b"),
        (["a/1.jpg", "c/1.jpg"], r"no folder in .*/train for classes that val has: c\n.*/val .* that train has: b"),
    ],
)
def test_folders_that_are_not_as_promised_are_named(root: Path, names: list[str], message: str) -> None:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    write_files(root / "val", *names)
    with pytest.raises(UserError, match=message):
        lay_out_folder(root)


def test_excluding_the_last_image_of_a_class_is_an_error(root: Path) -> None:
    with pytest.raises(UserError, match=r"classes without images in .*/train: a"):
        lay_out_folder(root, exclude=("train/a/1.jpg",))


def test_imagenet_reports_training_and_validation_problems_together(root: Path) -> None:
    data = DataConfig(dataset="imagenet", root=str(root))
    with pytest.raises(UserError) as caught:
        lay_out(data, "val", ("train", "val"), root / "unused")
    message = str(caught.value)
    assert f"data.train: {root}/train holds 0 of the 1,000 classes of ILSVRC 2012; missing: n01440764, " in message
    assert "and 990 more" in message
    assert "holds 3 images, ILSVRC 2012 has 1,281,167" in message
    assert f"data.val: {root}/val holds 2 images, ILSVRC 2012 has 50,000" in message
