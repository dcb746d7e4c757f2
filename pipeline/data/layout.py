"""From the config's promise to the images as they lie: splits, classes and labels, before any image is opened."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.data.cifar import read_cifar
from pipeline.data.cifar_versions import CIFAR
from pipeline.data.digits import CLASS_WORDS, write_digits
from pipeline.data.findings import Finding
from pipeline.data.ground_truth import find_ground_truth
from pipeline.data.ilsvrc import (
    Ilsvrc,
    check_test_images,
    check_training_images,
    read_ilsvrc2012,
    read_validation_labels,
)
from pipeline.data.index import UNLABELLED, ImageClass, ImageIndex
from pipeline.data.listing import list_place, list_split
from pipeline.data.parquet import read_copies
from pipeline.data.places import Places, Source
from pipeline.data.recognition import Place, place_of
from pipeline.data.subset import is_subset, subset_classes
from pipeline.data.tree import SplitTree, join_path, name_some, read_tree
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
    """Notices: what was passed over or excluded."""
    labels_from: Path | None = None
    """The file with the labels, if the folders do not have them."""
    has_names: bool = True
    """Whether the images have the names that they had as files, so that the index is that of the class folders."""

    def take(self, rows: Sequence[int]) -> Layout:
        """Return some of the rows, in the order given."""
        return dataclasses.replace(
            self,
            source=self.source.take(rows),
            names=[self.names[row] for row in rows],
            labels=[self.labels[row] for row in rows],
        )


def lay_out(data: DataConfig, split: str, wanted: Collection[str], digits_folder: Path) -> Layout:
    """Find the images of a split. All `wanted` splits must exist and are checked together; digits are written first.

    Raises UserError with everything that is wrong: folders, classes, counts, labels, names to exclude that are not
    there. Of ImageNet inside large files only `split` itself is listed: each listing reads a header for each image.
    """
    if data.dataset == "digits":
        write_digits(digits_folder, split)
        trees = {split: read_tree(split, digits_folder, flat_allowed=False)}
        layouts = _folder_layouts(data, trees, dict(enumerate(CLASS_WORDS)))
    elif data.is_cifar:
        layouts = {split: _cifar_layout(data, split)}
    elif data.dataset == "imagenet":
        listed = [name for name in wanted if name == split or place_of(data, name).is_loose]
        layouts = _imagenet_layouts(data, listed, read_ilsvrc2012(), for_training="train" in wanted)
    else:
        listed = [name for name in wanted if name == split or place_of(data, name).kind != "parquet"]
        layouts = _folder_layouts(data, _read_trees(data, listed), {})
    problems: list[str] = []
    layouts = {name: _exclude(layout, data.exclude, problems) for name, layout in layouts.items()}
    known = [name for name in SPLITS if name != "test" or data.test is not None]
    for name in data.exclude:
        if name.partition("/")[0] not in known:
            begins = " or ".join(f"{prefix}/" for prefix in known)
            problems.append(f"data.exclude: there is no {name} (names begin with {begins})")
    for layout in layouts.values():
        problems += _check_rows(layout, may_lack_images="train" not in wanted and layout.dataset == "folder")
    if problems:
        raise UserError("\n".join(problems))
    return layouts[split]


def find_ranges(data: DataConfig, place: Place, index: ImageIndex) -> Places | None:
    """Find the images of an index in the large files at a place. Returns None if they are not those.

    Reads operations alone.
    """
    return _ranges(list_place(data, place, _table(index)), index)


def find_copies(folder: Path, index: ImageIndex) -> Places | None:
    """Find the images of an index in the copies of parquet files. Returns None if they are not there."""
    tree = read_copies(index.split, folder, None, _table(index))
    return None if tree is None else _ranges(tree, index)


def _table(index: ImageIndex) -> Ilsvrc | None:
    """Return the contest's table if the images were listed with it, those of a part of ImageNet too."""
    return read_ilsvrc2012() if any(one.ilsvrc2012_id is not None for one in index.classes) else None


def _ranges(tree: SplitTree, index: ImageIndex) -> Places | None:
    assert tree.ranges is not None, "the files are the images' own"
    return tree.ranges.take(name.rpartition("/")[2] if tree.is_flat else name for name in index.names)


def _read_trees(data: DataConfig, splits: Collection[str]) -> dict[str, SplitTree]:
    trees, problems = {}, []
    for split in splits:
        try:
            trees[split] = list_split(data, split, None)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return trees


def _folder_layouts(data: DataConfig, trees: Mapping[str, SplitTree], words: Mapping[int, str]) -> dict[str, Layout]:
    """Labels are places in the order of the folder names, which train and val must share."""
    labelled = {split: tree for split, tree in trees.items() if split != "test"}
    problems = [
        f"data.{one.split}: no folder in {one.root} for classes that {other.split} has: {name_some(missing)}"
        for one in labelled.values()
        for other in labelled.values()
        if (missing := set(other.folders) - set(one.folders))
    ]
    if problems:
        raise UserError("\n".join(problems))
    folders = list(next(iter(labelled.values())).folders) if labelled else []
    classes = tuple(ImageClass(label, folder, words.get(label, folder), None) for label, folder in enumerate(folders))
    labels = {folder: label for label, folder in enumerate(folders)}
    return {
        split: _layout(data.dataset, tree, classes, None if split == "test" else labels)
        for split, tree in trees.items()
    }


def _cifar_layout(data: DataConfig, split: str) -> Layout:
    """Images are named by their numbers in the order of the files."""
    place = place_of(data, split)
    pixels, labels = read_cifar(place.path, data.dataset, split, place.files)
    classes = tuple(ImageClass(label, name, name, None) for label, name in enumerate(CIFAR[data.dataset].classes))
    names = [f"{number:05d}" for number in range(len(labels))]
    return Layout(
        split, data.dataset, classes, Source("memory", place.path, None, lambda: pixels), names, labels.tolist(), []
    )


def _imagenet_layouts(
    data: DataConfig, splits: Collection[str], table: Ilsvrc, *, for_training: bool
) -> dict[str, Layout]:
    layouts, problems = {}, []
    for split in splits:
        try:
            layouts[split] = _imagenet_layout(data, split, table, for_training=for_training)
        except UserError as error:
            problems.append(str(error))
    if problems:
        if any(" holds " in problem for problem in problems):  # counts, and not the order of the labels
            problems.append(
                "a part of ImageNet, to train on or to evaluate after training: data.dataset=folder, with a folder for "
                "each class in train and in val; to evaluate weights alone, name them: evaluate.weights=FILE"
            )
        raise UserError("\n".join(dict.fromkeys(problems)))
    return layouts


def _imagenet_layout(data: DataConfig, split: str, table: Ilsvrc, *, for_training: bool) -> Layout:
    tree, classes, ground_truth = list_split(data, split, table), tuple(table.classes()), None
    if split == "test":
        problems, labels = check_test_images(tree, table), None
    elif split == "val":
        ground_truth = None if data.val_ground_truth is None else Path(data.val_ground_truth)
        if ground_truth is None and tree.is_flat and data.root is not None:
            ground_truth = find_ground_truth(Path(data.root), tree.root)
        if not for_training and is_subset(tree, table):
            some, labels = subset_classes(tree, ground_truth, table)
            layout = _layout("folder", tree, some, labels)
            return dataclasses.replace(layout, labels_from=ground_truth) if tree.is_flat else layout
        problems, labels = [], read_validation_labels(tree, ground_truth, table)
    else:
        problems = check_training_images(tree, table)
        labels = {synset.wnid: label for label, synset in enumerate(table.synsets)}
    if problems:
        raise UserError("\n".join(problems))
    layout = _layout(data.dataset, tree, classes, labels)
    return dataclasses.replace(layout, labels_from=ground_truth) if tree.is_flat else layout


def _layout(dataset: str, tree: SplitTree, classes: tuple[ImageClass, ...], labels: Mapping[str, int] | None) -> Layout:
    """Build a layout; `labels` are by class folder or, if the split is flat, by file name; unlabelled images have
    none."""
    if labels is None:
        rows = [(UNLABELLED, name, name) for name in tree.paths()]
    else:
        rows = [
            (labels[folder or file], f"{classes[labels[folder or file]].folder}/{file}", join_path(folder, file))
            for folder, files in tree.folders.items()
            for file in files
        ]
        if tree.is_flat:
            rows.sort()
    if tree.ranges is None:
        source = Source(tree.layout, tree.root)
    else:
        source = Source(tree.layout, tree.ranges.folder, tree.ranges.take(path for _, _, path in rows))
    names, found = [name for _, name, _ in rows], list(tree.findings)
    labels_of = [label for label, _, _ in rows]
    return Layout(tree.split, dataset, classes, source, names, labels_of, found, has_names=tree.has_names)


def _check_rows(layout: Layout, may_lack_images: bool) -> list[str]:
    """List the problems of the rows that are left: classes without an image."""
    problems, root = [], layout.source.folder
    there = set(layout.labels)
    empty = [one.folder for one in layout.classes if one.label not in there]
    if empty and UNLABELLED not in there and not may_lack_images:
        problems.append(f"data.{layout.split}: classes without images in {root}: {name_some(empty)}")
    return problems


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
    kept = layout.take([row for row, name in enumerate(layout.names) if name not in excluded])
    found = [Finding(layout.split, name, "excluded", "notice", "named in data.exclude") for name in excluded]
    return dataclasses.replace(kept, findings=layout.findings + [one for one in found if one.path in there])


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
