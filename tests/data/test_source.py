"""Where images are found, and that they are those of the index."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.data import verification
from pipeline.data.encoded import EncodedImages, read_image
from pipeline.data.index import ImageIndex, read_index, write_index
from pipeline.data.source import locate, place_name
from pipeline.data.verification import check_images
from pipeline.ground.errors import UserError
from tests.data.indexing import index_files, write_pictures

WAYS_ON = (
    "these are not the images that this run was made from: put the old ones back, or begin anew with these in another "
    "run (--run)"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty training images of two classes."""
    for name in ("a", "b"):
        write_pictures(tmp_path / "root" / "train" / name, 10)
    return tmp_path / "root"


@pytest.fixture
def directory(root: Path, tmp_path: Path) -> Path:
    """With the index of the images."""
    index = index_files(sorted((root / "train").rglob("*.JPEG")))
    (tmp_path / "prepare").mkdir()
    write_index(tmp_path / "prepare", index)
    return tmp_path / "prepare"


def locate_at(directory: Path, root: Path | str, **folders: Any) -> ImageIndex:
    return locate(read_index(directory), directory, DataConfig(dataset="folder", root=str(root), **folders))


def no_note(text: str) -> None:
    pytest.fail(f"unexpected note: {text}")


def test_images_are_found_under_any_way_to_write_the_path(
    root: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    expected = f"class folders in {root}/train"
    for written in (root, f"{root}/", "root", "./root/", f"{root}/../root"):
        index = locate_at(directory, written)
        assert place_name(index) == expected
        assert read_image(index, 13) == (root / "train" / "b" / "003.JPEG").read_bytes()
    assert Path(index.name(13)).samefile(root / "train" / "b" / "003.JPEG")
    (root / "train").rename(root / "learn")
    assert place_name(locate_at(directory, root, train="learn")) == f"class folders in {root}/learn"


def test_a_folder_that_is_not_there_is_named(root: Path, directory: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.train: must be a folder \(given {root}/learn\)"):
        locate_at(directory, root, train="learn")
    with pytest.raises(UserError, match=r"data\.root: must be a folder \(given /nowhere\)"):
        locate_at(directory, "/nowhere")


def test_a_known_place_is_checked_without_a_word_and_other_images_each_time(
    root: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = locate_at(directory, root)
    monkeypatch.setattr(verification, "SAMPLE", 3)
    looked: list[int] = []
    problem = EncodedImages.problem
    monkeypatch.setattr(
        EncodedImages, "problem", lambda images, position: looked.append(position) or problem(images, position)
    )
    monkeypatch.setattr("os.stat", lambda *rest: pytest.fail("all images were looked at"))
    for _ in range(30):
        check_images(index, True, no_note)
    assert len(looked) == 90
    assert len(set(looked)) > 15


def test_a_new_place_is_told_and_all_names_and_sizes_are_compared(
    root: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    notes: list[str] = []
    check_images(locate_at(directory, copy), False, notes.append)
    assert notes == [f"train: comparing the images (class folders in {copy}/train) with the index: 20 names and sizes"]
    monkeypatch.setattr(verification, "SAMPLE", 0)
    (copy / "train" / "a" / "004.JPEG").unlink()
    victim = copy / "train" / "b" / "001.JPEG"
    size = victim.stat().st_size
    victim.write_bytes(victim.read_bytes() + b"\0")
    with pytest.raises(UserError) as caught:
        check_images(locate_at(directory, copy), False, notes.append)
    assert str(caught.value).splitlines() == [
        f"train images: 2 of 20 looked at are missing or others (class folders in {copy}/train)",
        f"  {copy}/train/a/004.JPEG: No such file or directory",
        f"  {victim}: {size + 1:,} bytes, {size:,} when prepare read it",
        WAYS_ON,
    ]


@pytest.mark.parametrize("is_known_place", [True, False])
def test_other_images_of_the_same_sizes_are_refused_with_the_first_ones(
    root: Path, directory: Path, is_known_place: bool
) -> None:
    for file in (root / "train").rglob("*.JPEG"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        check_images(locate_at(directory, root), is_known_place, lambda text: None)
    first, *lines, last, ways_on = str(caught.value).splitlines()
    assert first == (f"train images: 20 of 20 looked at are missing or others (class folders in {root}/train)")
    assert lines[0] == f"  {root}/train/a/000.JPEG: its content has changed (SHA-256 differs)"
    assert (len(lines), last, ways_on) == (5, "  and 15 more", WAYS_ON)


def test_images_that_were_added_do_not_count(root: Path, directory: Path) -> None:
    write_pictures(root / "train" / "c", 3)
    index = locate_at(directory, root)
    check_images(index, False, lambda text: None)
    assert read_image(index, 0) == (root / "train" / "a" / "000.JPEG").read_bytes()
    assert np.array_equal(index.labels, read_index(directory).labels)
