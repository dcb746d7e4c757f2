from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np

from pipeline.data.index import UNLABELLED, ImageClass, ImageRecord, read_dataset, write_dataset

ODD_NAMES = (
    "with space.jpg",
    "naïve 画像.jpg",
    "tab\tin it.jpg",
    "line\nbreak.jpg",
    "carriage\rreturn.jpg",
    'quote".jpg',
    "back\\slash.jpg",
    "separator\u2028.jpg",
    os.fsdecode(b"latin-1 \xe9\xff.jpg"),
)
CLASSES = [ImageClass(0, "a", "first, the", None), ImageClass(1, "b", "zweite, größere", 7)]


def record(path: str, label: int = 0, num_bytes: int = 10, flags: tuple[str, ...] = ()) -> ImageRecord:
    return ImageRecord(path, label, num_bytes, width=500, height=375, sha256="0123456789abcdef", flags=flags)


def test_dataset_reads_back_as_written(tmp_path: Path) -> None:
    train = [record("a/1.jpg", 0, 12_345_678_901), record("b/2.jpg", 1, 0, ("png", "grey"))]
    names = write_dataset(tmp_path, "x", CLASSES, {"train": Path("/t"), "val": Path("/v")}, {"train": train, "val": []})
    dataset = read_dataset(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert (dataset.name, list(dataset.classes)) == ("x", CLASSES)
    assert (len(dataset.train), len(dataset.val)) == (2, 0)
    assert list(dataset.train.paths) == ["a/1.jpg", "b/2.jpg"]
    assert dataset.train.file(1) == "/t/b/2.jpg"
    assert list(dataset.train.flags) == ["", "png,grey"]
    assert list(dataset.train.sha256) == ["0123456789abcdef"] * 2
    columns = (dataset.train.labels, dataset.train.num_bytes, dataset.train.widths, dataset.train.heights)
    assert [column.tolist() for column in columns] == [[0, 1], [12_345_678_901, 0], [500, 500], [375, 375]]
    assert all(column.dtype == np.int64 for column in columns)


def test_test_images_have_no_label(tmp_path: Path) -> None:
    splits = {
        "train": [record("a/1.jpg", 0)],
        "val": [],
        "test": [record("2.jpg", UNLABELLED), record("3.jpg", UNLABELLED)],
    }
    write_dataset(tmp_path, "x", CLASSES, dict.fromkeys(splits, tmp_path), splits)
    dataset = read_dataset(tmp_path)
    assert dataset.train.labels.tolist() == [0]
    assert dataset.test is not None
    assert dataset.test.labels.tolist() == [UNLABELLED, UNLABELLED]
    assert dataset.test.num_bytes.tolist() == [10, 10]


def test_any_file_name_survives(tmp_path: Path) -> None:
    records = [record(f"a/{name}") for name in ODD_NAMES]
    write_dataset(tmp_path, "x", CLASSES, {"train": tmp_path, "val": tmp_path}, {"train": records, "val": records[:1]})
    train = read_dataset(tmp_path).train
    assert list(train.paths) == [f"a/{name}" for name in ODD_NAMES]
    assert os.fsencode(train.file(len(ODD_NAMES) - 1)).endswith(b"latin-1 \xe9\xff.jpg")


def test_columns_are_sequences_that_travel_to_other_processes(tmp_path: Path) -> None:
    records = [record(f"a/{number}.jpg") for number in range(5)]
    write_dataset(tmp_path, "x", CLASSES, {"train": tmp_path, "val": tmp_path}, {"train": records, "val": []})
    paths = pickle.loads(pickle.dumps(read_dataset(tmp_path).train)).paths
    assert (paths[np.int64(3)], paths[-1], list(paths[1:3])) == ("a/3.jpg", "a/4.jpg", ["a/1.jpg", "a/2.jpg"])
    assert "a/2.jpg" in paths


def test_images_inside_the_directory_move_with_it(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    roots = {"train": before / "images" / "train", "val": tmp_path / "elsewhere"}
    write_dataset(before, "x", CLASSES, roots, {"train": [record("a/1.jpg")], "val": [record("a/1.jpg")]})
    before.rename(after)
    dataset = read_dataset(after)
    assert dataset.train.file(0) == str(after / "images" / "train" / "a" / "1.jpg")
    assert dataset.val.file(0) == str(tmp_path / "elsewhere" / "a" / "1.jpg")


def test_digest_changes_with_any_cell(tmp_path: Path) -> None:
    digests = set()
    for rows in ([record("a/1.jpg")], [record("a/2.jpg")], [record("a/1.jpg", 1)], [record("a/1.jpg", flags=("png",))]):
        write_dataset(tmp_path, "x", CLASSES, {"train": tmp_path, "val": tmp_path}, {"train": rows, "val": []})
        digests.add(read_dataset(tmp_path).train.digest)
    assert len(digests) == 4
