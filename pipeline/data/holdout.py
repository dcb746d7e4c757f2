"""Validation images held out of the training images, where there are no others."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipeline.data.tree import SplitTree, name_some
from pipeline.ground.errors import UserError
from pipeline.ground.seeds import derive_seed


def hold_out(tree: SplitTree, split: str, fraction: float, seed: int) -> SplitTree:
    """Return the part of all images that is `split`, train or val: the same share of each class, at least one image.

    A function of the names in each class folder, the fraction and the seed. Raises UserError naming classes of a single
    image.
    """
    if single := [folder for folder, names in tree.folders.items() if len(names) < 2]:
        raise UserError(
            f"data.val_fraction: classes in {tree.root} with fewer than two images cannot be split: {name_some(single)}"
        )
    folders = {}
    for folder, names in tree.folders.items():
        generator = np.random.Generator(np.random.Philox(derive_seed("data.split_seed", seed, folder)))
        count = min(max(1, round(fraction * len(names))), len(names) - 1)
        held_out = set(generator.permutation(len(names))[:count].tolist())
        folders[folder] = tuple(name for row, name in enumerate(names) if (row in held_out) == (split == "val"))
    findings = tuple(dataclasses.replace(found, split=split) for found in tree.findings)
    return dataclasses.replace(tree, split=split, folders=folders, findings=findings)
