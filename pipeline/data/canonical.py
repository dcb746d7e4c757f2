"""Canonical names and class folders for images that came out of a format with keys and label numbers.

ImageNet's names survive in most formats (`n01440764_10026.jpg`, Hugging Face's `n01440764_10026_n01440764.JPEG`), so
that the index is that of the class folders. Where they do not, the images are named by where they lie in the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.data.findings import Finding
from pipeline.data.ilsvrc import Ilsvrc
from pipeline.data.places import Ranges
from pipeline.data.tree import SplitTree, join_path, name_some
from pipeline.ground.errors import UserError

_CONTEST = re.compile(r"((n\d{8})_\d+|ILSVRC2012_(?:val|test)_\d{8})(?:_n\d{8})?")


class Row(NamedTuple):
    """An image as a format gives it."""

    name: str
    """A path or a file name; empty if the format has none."""
    number_in_file: int
    label: int | None
    number: int
    """Of the container."""
    offset: int
    length: int
    ending: str = "jpg"


def make_tree(
    split: str,
    place: Path,
    ranges: Ranges,
    stems: Sequence[str],
    rows: Sequence[Row],
    findings: Sequence[Finding],
    class_names: Sequence[str] | None,
    table: Ilsvrc | None,
    layout: str,
) -> SplitTree:
    """Give rows their class folders and names. `stems` are the containers' names, `table` the contest's classes.

    Raises UserError if a label is missing or is no class, or if the labels follow another order than the names.
    """
    if not rows:
        raise UserError(f"data.{split}: no images in {place}")
    is_flat = split == "test"
    folders = [""] if is_flat else _folders(split, place, rows, class_names, table)
    files = _contest_names(rows) if table is not None else _file_names(rows, is_flat)
    if files is not None and table is not None and split == "train":
        _check_order(place, rows, files, table)
    has_names = files is not None
    if files is None:
        files = [f"{stems[row.number]}-{row.number_in_file:06d}.{row.ending}" for row in rows]
    contents: dict[str, list[str]] = {folder: [] for folder in folders}
    for row, file in zip(rows, files, strict=True):
        folder = "" if is_flat else folders[row.label or 0]
        contents[folder].append(file)
        ranges.add(join_path(folder, file), row.number, row.offset, row.length)
    sorted_contents = {folder: tuple(sorted(names)) for folder, names in contents.items()}
    return SplitTree(split, place, sorted_contents, tuple(findings), layout, ranges, has_names)


def _folders(
    split: str, place: Path, rows: Sequence[Row], class_names: Sequence[str] | None, table: Ilsvrc | None
) -> list[str]:
    """Return the class folder of each label."""
    labels = {row.label for row in rows}
    if None in labels:
        missing = sum(row.label is None for row in rows)
        raise UserError(f"data.{split}: {missing:,} of {len(rows):,} images in {place} have no label")
    numbers = {label for label in labels if label is not None}
    if table is not None:
        names = [synset.wnid for synset in table.synsets]
    elif class_names is not None:
        names = list(class_names)
    else:
        names = _folders_of_keys(rows) or [str(label) for label in range(max(numbers) + 1)]
    if min(numbers) < 0 or max(numbers) >= len(names):
        raise UserError(
            f"data.{split}: labels in {place} must be 0 to {len(names) - 1} (they are {min(numbers)} to {max(numbers)})"
        )
    return names


def _folders_of_keys(rows: Sequence[Row]) -> list[str] | None:
    """Return the folders of the names, if each stands for one label and together they are all labels from 0."""
    folder_of: dict[int, str] = {}
    for row in rows:
        folder = row.name.rpartition("/")[0].rpartition("/")[2]
        if not folder or folder_of.setdefault(row.label or 0, folder) != folder:
            return None
    names = [folder_of.get(label, "") for label in range(max(folder_of) + 1)]
    return names if "" not in names and len(set(names)) == len(names) else None


def _contest_names(rows: Sequence[Row]) -> list[str] | None:
    found = [_CONTEST.fullmatch(Path(row.name).stem) for row in rows]
    names = [f"{match[1]}.JPEG" for match in found if match is not None]
    return names if len(names) == len(rows) == len(set(names)) else None


def _file_names(rows: Sequence[Row], is_flat: bool) -> list[str] | None:
    """Return the last part of each name, or None unless these are different within each class."""
    names = [row.name.rpartition("/")[2] for row in rows]
    different = {(None if is_flat else row.label, name) for row, name in zip(rows, names, strict=True)}
    return names if all(names) and len(different) == len(rows) else None


def _check_order(place: Path, rows: Sequence[Row], files: Sequence[str], table: Ilsvrc) -> None:
    label_of = {synset.wnid: label for label, synset in enumerate(table.synsets)}
    wrong = [
        f"{file} is {row.label}, not {label_of.get(file.partition('_')[0], 'a class')}"
        for row, file in zip(rows, files, strict=True)
        if label_of.get(file.partition("_")[0]) != row.label
    ]
    if wrong:
        raise UserError(
            f"data.train: {len(wrong):,} labels in {place} are not places in the sorted order of the WordNet ids, "
            f"as their images' names say: {name_some(wrong, 3)}"
        )
