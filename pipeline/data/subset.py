"""Some of ILSVRC 2012's images, or others of its classes, where only an evaluation reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.data.ground_truth import image_number
from pipeline.data.ilsvrc import Ilsvrc, no_ground_truth, read_ground_truth
from pipeline.data.index import ImageClass
from pipeline.data.tree import SplitTree, name_some
from pipeline.ground.errors import UserError


def is_subset(tree: SplitTree, table: Ilsvrc) -> bool:
    """Return whether validation images are other than ILSVRC 2012's 50,000, by their names alone."""
    if not tree.has_names:
        return tree.num_files != table.num_val
    numbers = sorted(image_number(tree.split, path) or 0 for path in tree.paths())
    return numbers != list(range(1, table.num_val + 1))


def subset_classes(
    tree: SplitTree, ground_truth: Path | None, table: Ilsvrc
) -> tuple[tuple[ImageClass, ...], dict[str, int]]:
    """Return the classes, one a folder, and the label of each folder or, if the split is flat, of each file name.

    Raises UserError if images without class folders are not named as the contest's, or there is no ground truth.
    """
    known = {image_class.folder: image_class for image_class in table.classes()}
    of_file = _flat_folders(tree, ground_truth, table) if tree.is_flat else {}
    folders = sorted(set(of_file.values())) if tree.is_flat else list(tree.folders)
    classes = tuple(
        dataclasses.replace(known[folder], label=label) if folder in known else ImageClass(label, folder, folder, None)
        for label, folder in enumerate(folders)
    )
    labels = {folder: label for label, folder in enumerate(folders)}
    return classes, {name: labels[folder] for name, folder in of_file.items()} if tree.is_flat else labels


def _flat_folders(tree: SplitTree, ground_truth: Path | None, table: Ilsvrc) -> dict[str, str]:
    numbers = {name: image_number(tree.split, name) or 0 for name in tree.paths()}
    if odd := [name for name, number in numbers.items() if not 1 <= number <= table.num_val]:
        raise UserError(
            f"data.{tree.split}: the {tree.num_files:,} images in {tree.root} are in no class folders, and names that "
            f"are not ILSVRC2012_{tree.split}_00000001.JPEG to {table.num_val:08d} say no class: {name_some(odd, 3)}"
        )
    if ground_truth is None:
        raise no_ground_truth(tree)
    id_of = read_ground_truth(ground_truth, table, whole=False)
    if unnamed := [name for name, number in numbers.items() if number not in id_of]:
        raise UserError(f"data.val_ground_truth: {ground_truth} has no line for {name_some(unnamed, 3)}")
    wnid_of = {synset.ilsvrc2012_id: synset.wnid for synset in table.synsets}
    return {name: wnid_of[id_of[number]] for name, number in numbers.items()}
