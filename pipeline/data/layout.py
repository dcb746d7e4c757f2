"""From the config's promise to the folders as they are: splits, classes and labels, before any image is opened."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.data.digits import CLASS_WORDS, write_digits
from pipeline.data.findings import Finding
from pipeline.data.ilsvrc import (
    Ilsvrc,
    check_test_images,
    check_training_images,
    read_ilsvrc2012,
    read_validation_labels,
)
from pipeline.data.index import UNLABELLED, ImageClass
from pipeline.data.tree import SplitTree, data_root, join_path, name_some, read_flat, read_tree
from pipeline.ground.errors import UserError

SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set whose folders, counts and labels are what they should be."""

    classes: list[ImageClass]
    trees: Mapping[str, SplitTree]
    """By split; without the images that the config excludes."""
    labels: Mapping[str, Mapping[str, int]]
    """By split, then by class folder or, where the split is flat, by file name; the test split has none."""
    findings: list[Finding]
    """Notices: what was passed over or excluded."""

    def label_of(self, split: str, folder: str, name: str) -> int:
        """The label of one image; UNLABELLED for a test image."""
        return UNLABELLED if split == "test" else self.labels[split][folder or name]


def lay_out(data: DataConfig, num_classes: int, digits_folder: Path) -> Layout:
    """Find the splits that `data` describes. The digits are written to `digits_folder` first.

    UserError with everything that is wrong: folders, classes, counts, labels, names to exclude that are not there.
    """
    if data.dataset == "digits":
        write_digits(digits_folder)
        layout = _folder_layout(_read_trees(digits_folder, "train", "val"), dict(enumerate(CLASS_WORDS)))
    elif data.dataset == "imagenet":
        layout = _imagenet_layout(data, read_ilsvrc2012())
    else:
        layout = _folder_layout(_read_trees(data_root(data), data.train, data.val), {})
    layout = _exclude(layout, data.exclude)
    problems = [
        f"data.{split}: class folders without images in {tree.root}: {name_some(empty)}"
        for split, tree in layout.trees.items()
        if (empty := [folder for folder, names in tree.folders.items() if not names])
    ]
    if len(layout.classes) != num_classes:
        problems.append(
            f"model.num_classes: must be {len(layout.classes):,}, the number of class folders in "
            f"{layout.trees['train'].root} (given {num_classes:,})"
        )
    if problems:
        raise UserError("\n".join(problems))
    return layout


def _read_trees(root: Path, train: str, val: str, *, flat_val: bool = False) -> dict[str, SplitTree]:
    trees, problems = {}, []
    for split, folder in (("train", train), ("val", val)):
        try:
            trees[split] = read_tree(split, root / folder, flat_allowed=flat_val and split == "val")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return trees


def _folder_layout(trees: dict[str, SplitTree], words: Mapping[int, str]) -> Layout:
    """Labels are places in the sorted order of the folder names, which both splits must share."""
    train, val = trees["train"], trees["val"]
    problems = [
        f"data.{one.split}: no folder in {one.root} for classes that {other.split} has: {name_some(missing)}"
        for one, other in ((train, val), (val, train))
        if (missing := set(other.folders) - set(one.folders))
    ]
    if problems:
        raise UserError("\n".join(problems))
    folders = list(train.folders)
    classes = [ImageClass(label, folder, words.get(label, folder), None) for label, folder in enumerate(folders)]
    labels = {folder: label for label, folder in enumerate(folders)}
    return Layout(classes, trees, dict.fromkeys(SPLITS, labels), _tree_findings(trees))


def _imagenet_layout(data: DataConfig, table: Ilsvrc) -> Layout:
    trees = _read_trees(data_root(data), data.train, data.val, flat_val=True)
    problems = check_training_images(trees["train"], table)
    val_labels: Mapping[str, int] = {}
    ground_truth = None if data.val_ground_truth is None else Path(data.val_ground_truth)
    try:
        val_labels = read_validation_labels(trees["val"], ground_truth, table)
    except UserError as error:
        problems.append(str(error))
    if data.test is not None:
        try:
            trees["test"] = read_flat("test", data_root(data) / data.test)
            problems += check_test_images(trees["test"], table)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    train_labels = {synset.wnid: label for label, synset in enumerate(table.synsets)}
    return Layout(table.classes(), trees, {"train": train_labels, "val": val_labels}, _tree_findings(trees))


def _tree_findings(trees: Mapping[str, SplitTree]) -> list[Finding]:
    return [found for tree in trees.values() for found in tree.findings]


def _exclude(layout: Layout, names: tuple[str, ...]) -> Layout:
    """Leave out the images that the config names. UserError for a name that is not there, with the nearest ones."""
    trees, findings, problems = dict(layout.trees), list(layout.findings), []
    for name in dict.fromkeys(names):
        split, _, path = name.partition("/")
        folder, _, file = path.rpartition("/")
        if split in trees and file in trees[split].folders.get(folder, ()):
            trees[split] = trees[split].without([path])
            findings.append(Finding(split, path, "excluded", "notice", "named in data.exclude"))
        else:
            problems.append(f"data.exclude: there is no {name}{_nearest(layout.trees, split, folder, file)}")
    if problems:
        raise UserError("\n".join(problems))
    return dataclasses.replace(layout, trees=trees, findings=findings)


def _nearest(trees: Mapping[str, SplitTree], split: str, folder: str, file: str) -> str:
    """The names most like one that does not exist, as the end of a message."""
    if split not in trees:
        return f" (names begin with {' or '.join(f'{split}/' for split in trees)})"
    folders = trees[split].folders
    near_folders = [folder] if folder in folders else difflib.get_close_matches(folder, folders, n=3)
    near = [
        f"{split}/{join_path(near_folder, near_file)}"
        for near_folder in near_folders
        for near_file in difflib.get_close_matches(file, folders[near_folder], n=3)
    ]
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""
