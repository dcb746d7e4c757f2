"""ILSVRC 2012: its classes, its counts and the order of its validation labels.

Two orders of the 1000 classes are in use, and no class has the same place in both. Labels here follow the sorted
WordNet ids, as PyTorch's folders do; the contest's own files, and the authors' Caffe network, follow the ILSVRC2012_ID
(1 to 1000) of the devkit. Labels read in the wrong order give a network of 0.1 % accuracy and no error, so they are
compared with a digest of the devkit's.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pipeline.data.ground_truth import image_number, names_images, read_ids
from pipeline.data.index import ImageClass
from pipeline.data.tree import SplitTree, name_some
from pipeline.ground.errors import UserError

_PROBLEMS_SHOWN = 10
_NUM_VAL = 50_000
_NUM_TEST = 100_000
_GROUND_TRUTH_DIGEST = "323ca84ec5546dccc4dd11dbd2b3fc0094818728b5613f6089bd2f1428a04eaf"
"""`digest_ids` of the devkit's ILSVRC2012_validation_ground_truth.txt."""


@dataclasses.dataclass(frozen=True)
class Synset:
    """A class of the contest."""

    wnid: str
    ilsvrc2012_id: int
    num_train: int
    words: str


@dataclasses.dataclass(frozen=True)
class Ilsvrc:
    """The contest's classes and numbers of images."""

    synsets: tuple[Synset, ...]
    """In the sorted order of the WordNet ids: a class's place is its label."""
    num_val: int
    num_test: int
    ground_truth_digest: str

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return sum(synset.num_train for synset in self.synsets)

    def classes(self) -> list[ImageClass]:
        """Return the classes as the index lists them."""
        return [
            ImageClass(label, synset.wnid, synset.words, synset.ilsvrc2012_id)
            for label, synset in enumerate(self.synsets)
        ]


def read_ilsvrc2012() -> Ilsvrc:
    """Return the contest: 1,281,167 training, 50,000 validation and 100,000 unlabelled test images in 1000 classes."""
    lines = (files("pipeline.data") / "ilsvrc2012_synsets.csv").read_text(encoding="utf-8").splitlines()
    rows = sorted(csv.DictReader(lines), key=lambda row: int(row["sorted_wnid_index"]))
    synsets = [
        Synset(row["wnid"], int(row["ilsvrc2012_id"]), int(row["num_train_images"]), row["words"]) for row in rows
    ]
    return Ilsvrc(tuple(synsets), _NUM_VAL, _NUM_TEST, _GROUND_TRUTH_DIGEST)


def digest_ids(ids: Sequence[int]) -> str:
    """Return the SHA-256 of ILSVRC2012_IDs in the order of the validation images' numbers, one a line."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()


def check_training_images(tree: SplitTree, table: Ilsvrc) -> list[str]:
    """List the errors in the classes and counts of the training images."""
    problems = check_class_folders(tree, table)
    expected = {synset.wnid: synset.num_train for synset in table.synsets}
    counts = {wnid: (len(tree.folders[wnid]), number) for wnid, number in expected.items() if wnid in tree.folders}
    wrong = [f"{wnid} ({here:,} of {number:,})" for wnid, (here, number) in counts.items() if here != number]
    if tree.num_files != table.num_train:
        problems.append(f"data.train: {tree.root} holds {tree.num_files:,} images, ILSVRC 2012 has {table.num_train:,}")
    if wrong:
        problems.append(f"data.train: other numbers of images than ILSVRC 2012 has in {name_some(wrong)}")
    return problems


def check_class_folders(tree: SplitTree, table: Ilsvrc) -> list[str]:
    """List the classes that a split lacks, and the folders that are none of the contest's."""
    wnids = {synset.wnid for synset in table.synsets}
    problems = []
    if missing := wnids - set(tree.folders):
        problems.append(
            f"data.{tree.split}: {tree.root} holds {len(wnids) - len(missing):,} of the {len(wnids):,} classes of "
            f"ILSVRC 2012; missing: {name_some(missing)}"
        )
    if unknown := set(tree.folders) - wnids:
        problems.append(f"data.{tree.split}: not classes of ILSVRC 2012 in {tree.root}: {name_some(unknown)}")
    return problems


def read_validation_labels(tree: SplitTree, ground_truth: Path | None, table: Ilsvrc) -> dict[str, int]:
    """Return the label of each class folder or, if the split is flat, of each file name.

    Raises UserError with all errors: class folders, names and numbers of the images, their order, and the order that
    the labels seem to be in.
    """
    label_of_id = {synset.ilsvrc2012_id: label for label, synset in enumerate(table.synsets)}
    given = None if ground_truth is None else read_ground_truth(ground_truth, table)
    if not tree.has_names:
        return _labels_without_names(tree, table)
    paths = _by_number(tree, table.num_val)
    if not tree.is_flat:
        if problems := check_class_folders(tree, table):
            raise UserError("\n".join(problems))
        id_of_wnid = {synset.wnid: synset.ilsvrc2012_id for synset in table.synsets}
        listed = [id_of_wnid[path.split("/")[0]] for path in paths]
        check_ground_truth(f"data.val: the class folders in {tree.root}", listed, table)
    elif given is None:
        raise no_ground_truth(tree)
    else:
        listed = [given[number] for number in range(1, table.num_val + 1)]
    return {path.split("/")[0]: label_of_id[ilsvrc2012_id] for path, ilsvrc2012_id in zip(paths, listed, strict=True)}


def no_ground_truth(tree: SplitTree) -> UserError:
    """Return the error for validation images without class folders and without a file of their labels."""
    return UserError(
        f"data.val_ground_truth: needed, since the {tree.num_files:,} validation images in {tree.root} are in no class "
        "folders; give the devkit, ILSVRC2012_devkit_t12.tar.gz or its ILSVRC2012_validation_ground_truth.txt, or "
        "Kaggle's LOC_val_solution.csv; beside the images it is found by itself"
    )


def _labels_without_names(tree: SplitTree, table: Ilsvrc) -> dict[str, int]:
    """Compare the classes and the count, all that can be compared."""
    problems = check_class_folders(tree, table)
    if tree.num_files != table.num_val:
        problems.append(f"data.val: {tree.root} holds {tree.num_files:,} images, ILSVRC 2012 has {table.num_val:,}")
    if problems:
        raise UserError("\n".join(problems))
    return {synset.wnid: label for label, synset in enumerate(table.synsets)}


def check_test_images(tree: SplitTree, table: Ilsvrc) -> list[str]:
    """List what is wrong with the names and numbers of the test images."""
    if not tree.has_names:
        right = tree.num_files == table.num_test
        return [] if right else [f"data.test: {tree.root} holds {tree.num_files:,} images, not {table.num_test:,}"]
    try:
        _by_number(tree, table.num_test)
    except UserError as error:
        return [str(error)]
    return []


def _by_number(tree: SplitTree, count: int) -> list[str]:
    """Return the paths of images 1 to `count`, in this order."""
    by_number: dict[int, str] = {}
    problems = []
    for path in tree.paths():
        number = image_number(tree.split, path)
        if number is None or not 1 <= number <= count:
            problems.append(f"{path} is not named ILSVRC2012_{tree.split}_00000001.JPEG to {count:08d}")
        elif number in by_number:
            problems.append(f"{path} has the number of {by_number[number]}")
        else:
            by_number[number] = path
    if missing := [f"{number:08d}" for number in range(1, count + 1) if number not in by_number]:
        problems.insert(0, f"no image of number {name_some(missing)}")
    if problems:
        shown = problems[:_PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown):,} more such problems")
        raise UserError(
            f"data.{tree.split}: {tree.root} holds {tree.num_files:,} images, ILSVRC 2012 has {count:,}:\n  "
            + "\n  ".join(shown)
        )
    return [by_number[number] for number in range(1, count + 1)]


def read_ground_truth(path: Path, table: Ilsvrc, *, whole: bool = True) -> dict[int, int]:
    """Return the ILSVRC2012_ID of each validation image, by the image's number.

    `whole`: whether a file that names its images must have all of them. Raises UserError describing any other content.
    """
    place = f"data.val_ground_truth: {path}"
    ids = read_ids(path, {synset.wnid: synset.ilsvrc2012_id for synset in table.synsets})
    if ids.keys() == set(range(1, table.num_val + 1)):
        check_ground_truth(place, [ids[number] for number in range(1, table.num_val + 1)], table)
    elif whole or not names_images(path):
        raise UserError(
            f"{place} must have {table.num_val:,} lines, one for each validation image (it has {len(ids):,}); the "
            "labels of a part of the images are found in the whole file by the images' numbers"
        )
    return ids


def check_ground_truth(place: str, labels: Sequence[int], table: Ilsvrc) -> None:
    """Raise UserError unless the labels are the devkit's; it names the order they are in if that is a known one."""
    if digest_ids(labels) == table.ground_truth_digest:
        return
    by_label = [synset.ilsvrc2012_id for synset in table.synsets]
    ids = sorted(by_label)
    known_orders = {
        "0-based ILSVRC2012_IDs, as in the authors' ILSVRC2017_val.txt": dict(enumerate(ids)),
        "places in the sorted order of the WordNet ids, from 0": dict(enumerate(by_label)),
        "places in the sorted order of the WordNet ids, from 1": dict(enumerate(by_label, start=1)),
        "folders chosen as if an ILSVRC2012_ID were a place in the sorted order of the WordNet ids": {
            ilsvrc2012_id: place for place, ilsvrc2012_id in enumerate(by_label, start=1)
        },
    }
    must = f"{place} must give the devkit's ILSVRC2012_IDs, {ids[0]} to {ids[-1]:,}"
    for order, id_of in known_orders.items():
        if digest_ids([id_of.get(label, 0) for label in labels]) == table.ground_truth_digest:
            raise UserError(f"{must} (these look like {order})")
    if min(labels) < ids[0] or max(labels) > ids[-1]:
        raise UserError(f"{must} (given {min(labels)} to {max(labels)})")
    raise UserError(f"{must}, in the order of the images' numbers (these are other labels, or out of order)")
