from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.index import (
    UNLABELLED,
    ImageClass,
    ImageIndex,
    check_num_classes,
    make_index,
    read_index,
    write_index,
)
from pipeline.data.places import Source
from pipeline.ground.errors import UserError

ODD_NAMES = (
    "with space.jpg",
    "naïve 画像.jpg",
    "tab\tin it.jpg",
    "line\nbreak.jpg",
    "carriage\rreturn.jpg",
    'quote".jpg',
    "back\\slash.jpg",
    "separator\u2028.jpg",
)
CLASSES = (ImageClass(0, "a", "first, the", None), ImageClass(1, "b", "zweite, größere", 7))
NUM_IMAGENET = 1_281_167


def index_of(names: tuple[str, ...] = ("a/1.jpg", "b/2.jpg"), split: str = "train", **columns: Any) -> ImageIndex:
    """Rows that differ in nothing but their names, unless columns say so."""
    count = len(names)
    given = {
        "labels": [0] * count,
        "num_bytes": [10] * count,
        "widths": [500] * count,
        "heights": [375] * count,
        "sha256": np.arange(32 * count) % 251,
        "flags": [0] * count,
        **columns,
    }
    return make_index(split, "x", CLASSES, names, **given)


def test_an_index_reads_back_as_written(tmp_path: Path) -> None:
    written = index_of(labels=[0, 1], num_bytes=[12_345_678_901, 0], flags=[0, 0b10010])
    names = write_index(tmp_path, written)
    index = read_index(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert (index.split, index.dataset, index.classes, len(index)) == ("train", "x", CLASSES, 2)
    assert list(index.names) == ["a/1.jpg", "b/2.jpg"]
    assert index.count_flags() == {"grey": 1, "png": 1}
    assert index.source is None
    assert index.digest == written.digest
    columns = (index.labels, index.num_bytes, index.widths, index.heights, index.flags)
    assert [column.tolist() for column in columns] == [
        [0, 1],
        [12_345_678_901, 0],
        [500, 500],
        [375, 375],
        [0, 0b10010],
    ]
    assert all(column.dtype == np.int64 for column in columns)
    assert index.sha256.tolist() == written.sha256.tolist()


def test_the_digest_is_the_one_that_its_description_says() -> None:
    index = index_of(("a/é", "b"), labels=[UNLABELLED, 1])
    content = (2).to_bytes(8, "little") + "a/é\0b\0".encode()
    for column in ([-1, 1], [10, 10], [500, 500], [375, 375]):
        content += b"".join(number.to_bytes(8, "little", signed=True) for number in column)
    assert index.digest == hashlib.sha256(content + bytes(number % 251 for number in range(64))).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("a/1.jpg", "b/3.jpg")},
        {"labels": [0, 1]},
        {"num_bytes": [10, 11]},
        {"widths": [500, 501]},
        {"heights": [375, 376]},
        {"sha256": np.arange(64) % 63},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_changes_with_any_cell(change: dict[str, Any]) -> None:
    assert index_of(**change).digest != index_of().digest


def test_any_file_name_in_utf8_survives(tmp_path: Path) -> None:
    names = tuple(f"a/{name}" for name in ODD_NAMES)
    write_index(tmp_path, index_of(names))
    index = dataclasses.replace(read_index(tmp_path), source=Source("folders", Path("/t")))
    assert tuple(index.names) == tuple(index.names[position] for position in range(len(names))) == names
    assert index.file(1) == "/t/a/naïve 画像.jpg"


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match=r"'a/caf\\udce9\.jpg': the file's name is not UTF-8; rename it"):
        index_of(("a/caf\udce9.jpg",))


def test_names_are_a_sequence_that_travels_to_other_processes(tmp_path: Path) -> None:
    write_index(tmp_path, index_of(tuple(f"a/{number}.jpg" for number in range(5))))
    names = pickle.loads(pickle.dumps(read_index(tmp_path))).names
    assert (names[np.int64(3)], names[-1], names[1:3]) == ("a/3.jpg", "a/4.jpg", ("a/1.jpg", "a/2.jpg"))
    assert "a/2.jpg" in names
    with pytest.raises(IndexError):
        names[5]


def test_rows_that_are_taken_out_are_an_index_of_their_own(tmp_path: Path) -> None:
    write_index(tmp_path, index_of(tuple(f"a/{number}.jpg" for number in range(5)), labels=[0, 1, 0, 1, 1]))
    some = read_index(tmp_path).take(np.array([3, 0]))
    assert (list(some.names), some.labels.tolist()) == (["a/3.jpg", "a/0.jpg"], [1, 0])
    assert some.digest == index_of(("a/3.jpg", "a/0.jpg"), labels=[1, 0], sha256=some.sha256).digest


def test_number_of_classes_must_be_that_of_the_images() -> None:
    check_num_classes(index_of(), 2)
    message = (
        r"must be 2, the number of classes of the train images \(given 1,000\); write model\.num_classes=2, or null"
    )
    with pytest.raises(UserError, match=message):
        check_num_classes(index_of(), 1000)


READER = """
import json, resource, sys, time
import numpy as np
from pathlib import Path
from pipeline.data.index import read_index
def private():
    pairs = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(pair[1]) for pair in pairs if pair[0] in ("Private_Dirty:", "Anonymous:"))
before, started = private(), time.process_time()
index = read_index(Path(sys.argv[1]))
seconds, positions = time.process_time() - started, np.arange(0, len(index), 10)
total = int(index.num_bytes.sum()) + int(index.labels[positions].sum()) + len(index.names[77])
print(json.dumps({"seconds": seconds, "kilobytes": private() - before, "images": len(index)}))
"""


def test_imagenets_index_is_read_at_once_into_memory_that_processes_share(tmp_path: Path) -> None:
    """0.1 CPU seconds at most; before, it took 1.5 and 471 MB in each process."""
    names = tuple(f"n{number // 1300:08d}/n{number // 1300:08d}_{number}.JPEG" for number in range(NUM_IMAGENET))
    numbers = np.arange(NUM_IMAGENET)
    sha256 = np.zeros((NUM_IMAGENET, 32), dtype=np.uint8)
    columns: dict[str, Any] = {
        "labels": numbers % 2,
        "num_bytes": numbers,
        "widths": numbers,
        "heights": numbers,
        "flags": numbers,
    }
    write_index(tmp_path, index_of(names, sha256=sha256, **columns))
    command = [sys.executable, "-c", READER, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["images"] == NUM_IMAGENET
    assert found["seconds"] < 0.1
    assert found["kilobytes"] < 10_000
