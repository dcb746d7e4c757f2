"""Some of ILSVRC 2012's images, or others of its classes, where only an evaluation reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.data.ilsvrc import Ilsvrc, image_number, read_ground_truth
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
    numbers = {name: image_number(tree.split, name) for name in tree.paths()}
    odd = [name for name, number in numbers.items() if number is None or not 1 <= number <= table.num_val]
    if odd or ground_truth is None:
        why = (
            f"names that are not ILSVRC2012_{tree.split}_00000001.JPEG to {table.num_val:08d} say no class: "
            f"{name_some(odd, 3)}"
            if odd
            else "the devkit's ILSVRC2012_validation_ground_truth.txt is needed in data.val_ground_truth"
        )
        raise UserError(
            f"data.{tree.split}: the {tree.num_files:,} images in {tree.root} are in no class folders: {why}"
        )
    wnid_of = {synset.ilsvrc2012_id: synset.wnid for synset in table.synsets}
    listed = read_ground_truth(ground_truth, table)
    return {name: wnid_of[listed[number - 1]] for name, number in numbers.items() if number is not None}
