"""The contest's tables, and what the checks say about a folder that is not as they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.ground_truth import image_number
from pipeline.data.ilsvrc import (
    Ilsvrc,
    Synset,
    check_test_images,
    check_training_images,
    digest_ids,
    read_ilsvrc2012,
    read_validation_labels,
)
from pipeline.data.tree import SplitTree, read_flat, read_tree
from pipeline.ground.errors import UserError

# Four classes whose two orders agree nowhere, eight validation images, three test images.
SYNSETS = (Synset("n1", 3, 2, "a"), Synset("n2", 1, 3, "b"), Synset("n3", 4, 1, "c"), Synset("n4", 2, 2, "d"))
IDS = (4, 1, 2, 3, 3, 2, 1, 4)
TABLE = Ilsvrc(SYNSETS, len(IDS), 3, digest_ids(IDS))
WNID_OF_ID = {synset.ilsvrc2012_id: synset.wnid for synset in SYNSETS}
LABELS = [[synset.ilsvrc2012_id for synset in SYNSETS].index(ilsvrc2012_id) for ilsvrc2012_id in IDS]


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def write_train(root: Path, counts: dict[str, int]) -> SplitTree:
    for wnid, count in counts.items():
        (root / wnid).mkdir(parents=True)
        for number in range(count):
            (root / wnid / f"{wnid}_{number}.JPEG").touch()
    return read_tree("train", root, flat_allowed=False)


def write_val(root: Path, ids: tuple[int, ...] | None) -> SplitTree:
    """In class folders by the ids, or flat."""
    for number in range(1, len(IDS) + 1):
        folder = root if ids is None else root / WNID_OF_ID[ids[number - 1]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / val_name(number)).touch()
    return read_tree("val", root, flat_allowed=True)


def write_ground_truth(path: Path, values: list[int] | tuple[int, ...]) -> Path:
    path.write_text("".join(f"{value}\n" for value in values))
    return path


def test_table_of_the_contest_is_whole() -> None:
    table = read_ilsvrc2012()
    assert (len(table.synsets), table.num_train, table.num_val, table.num_test) == (1000, 1_281_167, 50_000, 100_000)
    wnids = [synset.wnid for synset in table.synsets]
    assert wnids == sorted(set(wnids))
    assert sorted(synset.ilsvrc2012_id for synset in table.synsets) == list(range(1, 1001))
    assert not any(synset.ilsvrc2012_id == place + 1 for place, synset in enumerate(table.synsets))
    first = table.classes()[0]
    assert (first.label, first.folder, first.words) == (0, "n01440764", "tench, Tinca tinca")
    assert first.ilsvrc2012_id == 449


def test_digest_is_that_of_the_devkit(shared_data: Path) -> None:
    text = (shared_data / "ilsvrc2012_validation_ground_truth.txt").read_text()
    assert digest_ids([int(line) for line in text.split()]) == read_ilsvrc2012().ground_truth_digest


def test_devkit_file_gives_50000_labels_and_the_authors_file_is_named(shared_data: Path, tmp_path: Path) -> None:
    table = read_ilsvrc2012()
    names = tuple(val_name(number) for number in range(1, 50_001))
    tree = SplitTree("val", tmp_path, {"": names}, ())
    devkit = shared_data / "ilsvrc2012_validation_ground_truth.txt"
    labels = read_validation_labels(tree, devkit, table)
    assert [labels[name] for name in names[:5]] == [65, 970, 230, 809, 516]
    assert set(np.bincount(list(labels.values()))) == {50}
    ids = [int(line) for line in devkit.read_text().split()]
    authors = tmp_path / "ILSVRC2017_val.txt"
    authors.write_text("".join(f"{name} {label - 1}\n" for name, label in zip(names, ids, strict=True)))
    with pytest.raises(UserError, match=r"0-based ILSVRC2012_IDs, as in the authors' ILSVRC2017_val\.txt"):
        read_validation_labels(tree, authors, table)


def test_training_images_as_promised_have_no_problem(tmp_path: Path) -> None:
    tree = write_train(tmp_path / "train", {"n1": 2, "n2": 3, "n3": 1, "n4": 2})
    assert check_training_images(tree, TABLE) == []


def test_missing_and_foreign_classes_and_counts_are_named(tmp_path: Path) -> None:
    tree = write_train(tmp_path / "train", {"n1": 2, "n2": 2, "n4": 2, "n9": 1})
    problems = check_training_images(tree, TABLE)
    assert problems == [
        f"data.train: {tmp_path}/train holds 3 of the 4 classes of ILSVRC 2012; missing: n3",
        f"data.train: not classes of ILSVRC 2012 in {tmp_path}/train: n9",
        f"data.train: {tmp_path}/train holds 7 images, ILSVRC 2012 has 8",
        "data.train: other numbers of images than ILSVRC 2012 has in n2 (2 of 3)",
    ]


def test_counts_that_cancel_out_are_found(tmp_path: Path) -> None:
    tree = write_train(tmp_path / "train", {"n1": 3, "n2": 2, "n3": 1, "n4": 2})
    assert check_training_images(tree, TABLE) == [
        "data.train: other numbers of images than ILSVRC 2012 has in n1 (3 of 2), n2 (2 of 3)"
    ]


def test_flat_validation_images_take_the_devkits_labels(tmp_path: Path) -> None:
    tree = write_val(tmp_path / "val", None)
    labels = read_validation_labels(tree, write_ground_truth(tmp_path / "truth.txt", IDS), TABLE)
    assert [labels[val_name(number)] for number in range(1, 9)] == LABELS


def test_validation_folders_take_the_folders_labels(tmp_path: Path) -> None:
    tree = write_val(tmp_path / "val", IDS)
    assert read_validation_labels(tree, None, TABLE) == {"n1": 0, "n2": 1, "n3": 2, "n4": 3}


def test_flat_validation_images_need_the_devkits_file(tmp_path: Path) -> None:
    tree = write_val(tmp_path / "val", None)
    with pytest.raises(UserError, match=r"data\.val_ground_truth: needed, since the 8 .* are in no class folders"):
        read_validation_labels(tree, None, TABLE)


BY_WNID_FROM_0 = LABELS
BY_WNID_FROM_1 = [label + 1 for label in LABELS]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([value - 1 for value in IDS], r"1 to 4 \(these look like 0-based ILSVRC2012_IDs, as in the authors'"),
        (BY_WNID_FROM_0, "sorted order of the WordNet ids, from 0"),
        (BY_WNID_FROM_1, "sorted order of the WordNet ids, from 1"),
        (sorted(IDS), "these are other labels, or out of order"),
        ([*IDS[:-1], 5], r"1 to 4 \(given 1 to 5\)"),
        ([0, *IDS[1:]], r"1 to 4 \(given 0 to 4\)"),
        (IDS[:-1], r"must have 8 lines, one for each validation image \(it has 7\)"),
    ],
)
def test_wrong_ground_truth_is_named(tmp_path: Path, values: list[int], message: str) -> None:
    tree = write_val(tmp_path / "val", None)
    truth = write_ground_truth(tmp_path / "truth.txt", values)
    with pytest.raises(UserError, match=message):
        read_validation_labels(tree, truth, TABLE)


@pytest.mark.parametrize("line", ["", "n02119789", "1.5"])
def test_ground_truth_that_is_no_list_of_labels_is_refused_at_its_line(tmp_path: Path, line: str) -> None:
    tree = write_val(tmp_path / "val", None)
    truth = tmp_path / "truth.txt"
    truth.write_text(f"4\n1\n{line}\n")
    with pytest.raises(UserError, match=rf"truth\.txt:3: must be one ILSVRC2012_ID a line \(given '{line}'\)"):
        read_validation_labels(tree, truth, TABLE)


def test_ground_truth_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.val_ground_truth: .*nowhere cannot be read"):
        read_validation_labels(write_val(tmp_path / "val", None), tmp_path / "nowhere", TABLE)


def test_validation_folders_made_in_the_wrong_order_are_named(tmp_path: Path) -> None:
    # Whoever takes label i of the devkit for class i - 1 of the sorted folders.
    swapped = tuple(SYNSETS[ilsvrc2012_id - 1].ilsvrc2012_id for ilsvrc2012_id in IDS)
    with pytest.raises(
        UserError, match=r"class folders in .* must give .*folders chosen as if an ILSVRC2012_ID were a place"
    ):
        read_validation_labels(write_val(tmp_path / "val", swapped), None, TABLE)


def test_one_validation_image_in_the_wrong_folder_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other labels, or out of order"):
        read_validation_labels(write_val(tmp_path / "val", (3, *IDS[1:])), None, TABLE)


def test_validation_images_missing_doubled_and_misnamed_are_named(tmp_path: Path) -> None:
    root = tmp_path / "val"
    write_val(root, IDS)
    (root / "n3" / val_name(1)).rename(root / "n3" / "first.JPEG")
    (root / "n1" / val_name(4)).unlink()
    (root / "n1" / val_name(2)).touch()
    with pytest.raises(UserError) as caught:
        read_validation_labels(read_tree("val", root, flat_allowed=True), None, TABLE)
    message = str(caught.value)
    assert "holds 8 images, ILSVRC 2012 has 8" in message
    assert "no image of number 00000001, 00000004" in message
    assert "n3/first.JPEG is not named ILSVRC2012_val_00000001.JPEG to 00000008" in message
    assert f"n2/{val_name(2)} has the number of n1/{val_name(2)}" in message


def test_test_images_are_counted_and_named(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"ILSVRC2012_test_{number:08d}.JPEG").touch()
    assert check_test_images(read_flat("test", tmp_path), TABLE) == []
    (tmp_path / "ILSVRC2012_test_00000002.JPEG").rename(tmp_path / val_name(2))
    (problem,) = check_test_images(read_flat("test", tmp_path), TABLE)
    assert problem.startswith(
        f"data.test: {tmp_path} holds 3 images, ILSVRC 2012 has 3:\n  no image of number 00000002"
    )
    assert f"{val_name(2)} is not named ILSVRC2012_test_00000001.JPEG to 00000003" in problem


@pytest.mark.parametrize(
    ("split", "path", "number"),
    [
        ("val", "n01440764/ILSVRC2012_val_00000293.JPEG", 293),
        ("test", "ILSVRC2012_test_00100000.JPEG", 100_000),
        ("test", "ILSVRC2012_val_00000001.JPEG", None),
        ("val", "ILSVRC2012_val_1.JPEG", None),
    ],
)
def test_number_of_an_image_is_read_from_its_name(split: str, path: str, number: int | None) -> None:
    assert image_number(split, path) == number
