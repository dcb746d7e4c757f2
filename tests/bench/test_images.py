from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.bench import images
from pipeline.bench.images import benchmark_images, describe_images
from pipeline.ground.errors import UserError
from tests.images import write_image_folders

pytestmark = pytest.mark.slow


def test_a_folder_gives_whole_batches_taken_evenly(tmp_path):
    root = write_image_folders(tmp_path, 2, 5, 0) / "train"
    with benchmark_images(root, 9, 4) as index:
        assert list(index.names) == [
            f"class_{label:02d}/{number}.jpg"
            for label, number in [(0, 0), (0, 1), (0, 3), (0, 4), (1, 0), (1, 1), (1, 3), (1, 4)]
        ]
        assert index.labels.tolist() == [0] * 4 + [1] * 4
        assert index.num_bytes[0] == Path(index.file(0)).stat().st_size
        assert index.widths.min() >= 32
        assert "digits" not in describe_images(index, root)


def test_a_tar_gives_what_its_folder_gives(tmp_path):
    root = write_image_folders(tmp_path, 2, 3, 0) / "train"
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(root, "images")
    with benchmark_images(tmp_path / "images.tar", 6, 2) as packed, benchmark_images(root, 6, 2) as plain:
        assert [path.removeprefix("images/") for path in packed.names] == list(plain.names)
        assert packed.num_bytes.tolist() == plain.num_bytes.tolist()


def test_without_images_it_is_the_digits_and_says_that_they_are_tiny():
    with benchmark_images(None, 8, 8) as index:
        assert len(index) == 8
        assert set(index.widths.tolist()) == {32}
        assert "the digits: far smaller than photographs" in describe_images(index, None)


def test_it_says_what_it_does_before_there_is_anything_to_measure(tmp_path, monkeypatch):
    root = write_image_folders(tmp_path, 2, 3, 0) / "train"
    (root / "class_00" / "notes.txt").write_text("no image")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(root, "images")
    monkeypatch.setattr(images, "_TOLD_EVERY", 4)
    said: list[str] = []
    with benchmark_images(root, 4, 4, said.append):
        assert said == [f"listing {root}", f"listing {root}: 4 images", "reading 4 of 6 images"]
    said.clear()
    with benchmark_images(tmp_path / "images.tar", 4, 4, said.append) as index:
        assert index.source is not None
        assert said[:2] == [f"unpacking {tmp_path / 'images.tar'}", f"listing {index.source.folder}"]


def test_what_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no archive")
    with (
        pytest.raises(UserError, match=r"--images: .*empty must hold a batch of 4 JPEG files .* \(it holds 0\)"),
        benchmark_images(tmp_path / "empty", 8, 4),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"--images: .*text.tar is neither a folder nor a tar file"),
        benchmark_images(tmp_path / "text.tar", 8, 4),
    ):
        pass
    (tmp_path / "empty" / "bad.jpg").write_text("no image")
    with (
        pytest.raises(UserError, match=r"--images: .*bad.jpg is no image that can be read"),
        benchmark_images(tmp_path / "empty", 8, 1),
    ):
        pass


def test_fewer_images_than_a_batch_are_refused_for_what_they_are(tmp_path):
    root = write_image_folders(tmp_path, 1, 4, 0)
    with pytest.raises(UserError, match=r"--limit: .*--batch makes 4 \(given 3\)"), benchmark_images(root, 3, 4):
        pass
