"""Compare the folders with the config: splits, classes and labels, before any image is opened."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
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
from pipeline.data.places import Source
from pipeline.data.tree import SplitTree, join_path, name_some, read_flat, read_tree, split_folder
from pipeline.ground.errors import UserError

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A split whose folders, counts and labels are as required; one row an image, class by class."""

    split: str
    dataset: str
    classes: tuple[ImageClass, ...]
    source: Source
    names: list[str]
    """Canonical: `<class folder>/<file>` even if the folder is flat; `<file>` for unlabelled images."""
    labels: list[int]
    findings: list[Finding]
    """Notices about ignored or excluded files."""


def lay_out(data: DataConfig, split: str, wanted: Collection[str], digits_folder: Path) -> Layout:
    """Find the images of a split; all `wanted` splits are checked together. The digits are written first.

    Raises UserError with all errors: folders, classes, counts, labels, missing names to exclude.
    """
    if data.dataset == "digits":
        write_digits(digits_folder, split)
        trees = {split: read_tree(split, digits_folder, flat_allowed=False)}
        layouts = _folder_layouts(data.dataset, trees, dict(enumerate(CLASS_WORDS)))
    elif data.dataset == "imagenet":
        layouts = _imagenet_layouts(data, wanted, read_ilsvrc2012())
    else:
        layouts = _folder_layouts(data.dataset, _read_trees(data, wanted), {})
    problems: list[str] = []
    layouts = {name: _exclude(layout, data.exclude, problems) for name, layout in layouts.items()}
    known = [name for name in SPLITS if name != "test" or data.test is not None]
    for name in data.exclude:
        if name.partition("/")[0] not in known:
            begins = " or ".join(f"{prefix}/" for prefix in known)
            problems.append(f"data.exclude: there is no {name} (names begin with {begins})")
    for layout in layouts.values():
        problems += _check_rows(layout)
    if problems:
        raise UserError("\n".join(problems))
    return layouts[split]


def _read_trees(data: DataConfig, wanted: Collection[str]) -> dict[str, SplitTree]:
    trees, problems = {}, []
    for split in wanted:
        try:
            trees[split] = read_tree(split, split_folder(data, split), flat_allowed=False)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return trees


def _folder_layouts(dataset: str, trees: Mapping[str, SplitTree], words: Mapping[int, str]) -> dict[str, Layout]:
    """Lay out splits whose labels are places in the sorted order of the folder names, common to all splits."""
    problems = [
        f"data.{one.split}: no folder in {one.root} for classes that {other.split} has: {name_some(missing)}"
        for one in trees.values()
        for other in trees.values()
        if (missing := set(other.folders) - set(one.folders))
    ]
    if problems:
        raise UserError("\n".join(problems))
    folders = list(next(iter(trees.values())).folders)
    classes = tuple(ImageClass(label, folder, words.get(label, folder), None) for label, folder in enumerate(folders))
    labels = {folder: label for label, folder in enumerate(folders)}
    return {split: _layout(dataset, tree, classes, labels) for split, tree in trees.items()}


def _imagenet_layouts(data: DataConfig, wanted: Collection[str], table: Ilsvrc) -> dict[str, Layout]:
    layouts, problems = {}, []
    for split in wanted:
        try:
            layouts[split] = _imagenet_layout(data, split, table)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return layouts


def _imagenet_layout(data: DataConfig, split: str, table: Ilsvrc) -> Layout:
    folder, classes = split_folder(data, split), tuple(table.classes())
    if split == "test":
        tree = read_flat(split, folder)
        problems, labels = check_test_images(tree, table), None
    else:
        tree = read_tree(split, folder, flat_allowed=split == "val")
        if split == "val":
            ground_truth = None if data.val_ground_truth is None else Path(data.val_ground_truth)
            problems, labels = [], read_validation_labels(tree, ground_truth, table)
        else:
            problems = check_training_images(tree, table)
            labels = {synset.wnid: label for label, synset in enumerate(table.synsets)}
    if problems:
        raise UserError("\n".join(problems))
    return _layout(data.dataset, tree, classes, labels)


def _layout(dataset: str, tree: SplitTree, classes: tuple[ImageClass, ...], labels: Mapping[str, int] | None) -> Layout:
    """Build a layout; `labels` are by class folder or, if the split is flat, by file name; unlabelled images have
    none."""
    if labels is None:
        rows = [(UNLABELLED, name) for name in tree.paths()]
    else:
        rows = [(labels[folder or file], file) for folder, files in tree.folders.items() for file in files]
        rows = [(label, f"{classes[label].folder}/{file}") for label, file in (sorted(rows) if tree.is_flat else rows)]
    source = Source("flat" if tree.is_flat else "folders", tree.root)
    names = [name for _, name in rows]
    return Layout(tree.split, dataset, classes, source, names, [label for label, _ in rows], list(tree.findings))


def _check_rows(layout: Layout) -> list[str]:
    """List the errors in the remaining rows: names that are not UTF-8, classes without an image."""
    problems, root = [], layout.source.folder
    if odd := [repr(name) for name in layout.names if not name.isascii() and not _is_utf8(name)]:
        problems.append(f"data.{layout.split}: names that are not UTF-8 in {root}; rename them: {name_some(odd)}")
    there = set(layout.labels)
    empty = [one.folder for one in layout.classes if one.label not in there]
    if empty and UNLABELLED not in there:
        problems.append(f"data.{layout.split}: classes without images in {root}: {name_some(empty)}")
    return problems


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _exclude(layout: Layout, names: Sequence[str], problems: list[str]) -> Layout:
    """Leave out the images that the config names; a missing name is a problem, reported with the most similar ones."""
    prefix = f"{layout.split}/"
    excluded = dict.fromkeys(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    if not excluded:
        return layout
    there = set(layout.names)
    for name in excluded:
        if name not in there:
            problems.append(f"data.exclude: there is no {prefix}{name}{_nearest(layout, name)}")
    kept = [row for row, name in enumerate(layout.names) if name not in excluded]
    return dataclasses.replace(
        layout,
        names=[layout.names[row] for row in kept],
        labels=[layout.labels[row] for row in kept],
        findings=layout.findings
        + [
            Finding(layout.split, name, "excluded", "notice", "named in data.exclude")
            for name in excluded
            if name in there
        ],
    )


def _nearest(layout: Layout, name: str) -> str:
    """Return the names most similar to one that does not exist, as the end of a message."""
    folder, _, file = name.rpartition("/")
    near = [] if folder else [other for other in layout.names if other.endswith(f"/{file}")]
    if not near:
        files: dict[str, list[str]] = {}
        for other in layout.names:
            files.setdefault(other.rpartition("/")[0], []).append(other.rpartition("/")[2])
        near_folders = [folder] if folder in files else difflib.get_close_matches(folder, files, n=3)
        for other in near_folders:
            near += [join_path(other, found) for found in difflib.get_close_matches(file, files[other], n=3)]
    return f"; did you mean {' or '.join(f'{layout.split}/{one}' for one in near[:3])}?" if near else ""
