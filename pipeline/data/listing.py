"""Listing a split in the layout that was recognised."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.data.archive import read_class_tars, read_tar
from pipeline.data.holdout import hold_out
from pipeline.data.ilsvrc import Ilsvrc
from pipeline.data.parquet import read_copies
from pipeline.data.recognition import Place, holds_out, place_of
from pipeline.data.tree import SplitTree, class_order, name_some, read_flat, read_tree
from pipeline.data.webdataset import read_webdataset
from pipeline.ground.errors import UserError

_ANNOTATIONS = "val_annotations.txt"


def list_split(data: DataConfig, split: str, table: Ilsvrc | None) -> SplitTree:
    """List the images of a split of anything but the digits. `table`: the contest's classes, for ImageNet.

    Parquet files are listed as copied. Raises UserError if the split is not there, or not in the layout that it seems.
    """
    tree = list_place(data, place_of(data, split), table)
    if odd := [repr(path) for path in tree.paths() if not path.isascii() and not _is_utf8(path)]:
        raise UserError(f"data.{split}: names that are not UTF-8 in {tree.root}; rename them: {name_some(odd)}")
    if split != "test" and data.val_fraction is not None and holds_out(data):
        return hold_out(tree, split, data.val_fraction, data.split_seed)
    return tree


def list_place(data: DataConfig, place: Place, table: Ilsvrc | None) -> SplitTree:
    """List all images at a place. Reads operations alone."""
    assert data.root is not None, "the digits are listed elsewhere"
    split, root = place.split, Path(data.root)
    if place.kind == "tar":
        return read_tar(split, place.path, root, is_flat=split == "test" or (split == "val" and table is not None))
    if place.kind == "class_tars":
        return read_class_tars(split, place.path, place.files, root)
    if place.kind == "webdataset":
        return read_webdataset(split, place.path, place.files, root, table)
    if place.kind == "parquet":
        assert data.shards is not None, "check_places asks for it"
        copies = read_copies(split, Path(data.shards), place.files, table)
        if copies is None:
            raise UserError(f"data.shards: {data.shards} has no whole copy of the {place}; run prepare again")
        return copies
    if place.kind == "tiny":
        return _read_tiny(split, place.path)
    if split == "test":
        return read_flat(split, place.path)
    return read_tree(split, place.path, flat_allowed=split == "val" and table is not None)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _read_tiny(split: str, folder: Path) -> SplitTree:
    """Tiny-ImageNet: `train/<class>/images/x.JPEG`, and `val/images/x.JPEG` with the classes in a table."""
    if not (folder / _ANNOTATIONS).is_file():
        return read_tree(split, folder, flat_allowed=False, inner="images")
    class_of = {}
    for number, line in enumerate((folder / _ANNOTATIONS).read_text().splitlines(), start=1):
        words = line.split("\t")
        if len(words) < 2:
            raise UserError(f"{folder / _ANNOTATIONS}:{number}: must be image and class (given {line[:60]!r})")
        class_of[words[0]] = words[1]
    flat = read_flat(split, folder / "images")
    if unknown := [name for name in flat.folders[""] if name not in class_of]:
        raise UserError(f"data.{split}: {folder / _ANNOTATIONS} has no class for {name_some(unknown)}")
    contents: dict[str, list[str]] = {name: [] for name in class_order(set(class_of.values()))}
    for name in flat.folders[""]:
        contents[class_of[name]].append(name)
    folders = {name: tuple(files) for name, files in contents.items()}
    return SplitTree(split, folder / "images", folders, flat.findings, "flat")
