"""Recognising, by a look at `data.root`, where a split lies and in which layout. Nothing else asks for layouts."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pipeline.config.data import DataConfig
from pipeline.data.cifar_versions import CIFAR, find_cifar
from pipeline.data.tree import is_dropping, list_folder, name_some, no_folder
from pipeline.ground.errors import UserError

Kind = Literal["folders", "tiny", "tar", "class_tars", "webdataset", "parquet", "cifar"]
_SAID: dict[str, str] = {
    "folders": "class folders in",
    "tiny": "Tiny-ImageNet's folders in",
    "tar": "the tar file",
    "class_tars": "tar files of one class each in",
    "webdataset": "WebDataset tar files in",
    "parquet": "parquet files in",
    "cifar": "CIFAR in",
}
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_DOWNLOADS = {
    "train": ("ILSVRC2012_img_train.tar",),
    "val": ("ILSVRC2012_img_val.tar",),
    "test": ("ILSVRC2012_img_test_v10102019.tar", "ILSVRC2012_img_test.tar"),
}
_WORDS = {"train": "train|training", "val": "val|valid|validation", "test": "test"}
_NUMBERED = re.compile(r"(.*[-_.])?\d+")
"""The name of one tar file of several, without its ending."""
_ENDING = {"webdataset": ".tar", "parquet": ".parquet"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a split lies."""

    split: str
    kind: Kind
    path: Path
    """A folder, or the tar file."""
    files: tuple[Path, ...] = ()
    """The tar or parquet files in it that are the split's, sorted."""
    is_shared: bool = False
    """Whether train and val lie here together, and `data.val_fraction` says how much is val."""

    @property
    def is_loose(self) -> bool:
        """Whether each image is a file of its own."""
        return self.kind in ("folders", "tiny")

    def __str__(self) -> str:
        return f"{_SAID[self.kind]} {os.path.abspath(self.path)}"


def find_place(data: DataConfig, split: str, *, may_share: bool) -> Place:
    """Find a split of anything but the digits. Reads operations alone.

    `may_share`: validation images may lie among the training images, as with `data.val_fraction`. Raises UserError if
    data.root is no folder, or has no such split.
    """
    place = _look(data, split, may_share)
    if place is None:
        raise _missing(data, split)
    return place


def place_of(data: DataConfig, split: str) -> Place:
    """Find a split as the recipe says, among the training images if some are held out. Raises as `find_place` does."""
    if data.is_cifar:
        return cifar_place(data, data.dataset, split)
    return find_place(data, split, may_share=data.val_fraction is not None)


def check_places(data: DataConfig, splits: Iterable[str]) -> None:
    """Check that these splits are there and can be read, without a look at the images.

    Raises UserError with all that are not.
    """
    if data.dataset == "digits":
        return
    if data.is_cifar:
        for split in splits:
            cifar_place(data, data.dataset, split)
        return
    places = {split: _look(data, split, data.val_fraction is not None) for split in splits}
    if missing := [str(_missing(data, split)) for split, place in places.items() if place is None]:
        elsewhere = [] if any(places.values()) else _where_else(data, places)
        raise UserError("\n".join([*missing, *elsewhere, _what_is_there(data)]))
    for place in places.values():
        if place is not None and place.kind == "parquet" and data.shards is None:
            size = sum(file.stat().st_size for file in place.files)
            raise UserError(
                f"data.shards: needed, since single images of parquet files cannot be read ({place}); name a folder "
                f"for a copy, made once, of about {size / 1e9:.1f} GB, as in data.shards=/scratch/shards"
            )


def _look(data: DataConfig, split: str, may_share: bool) -> Place | None:
    root, name = _root(data), _name(data, split)
    own = root / name
    if own.is_file() and own.suffix == ".tar":
        return Place(split, "tar", own)
    if own.is_dir():
        return _in_folder(split, own)
    for file in _DOWNLOADS[split]:
        if (root / file).is_file():
            return Place(split, "tar", root / file)
    if (root / _KAGGLE / name).is_dir():
        return Place(split, "folders", root / _KAGGLE / name)
    for folder in (root, root / "data"):
        for kind in ("parquet", "webdataset"):
            if files := _of_split(folder, split, kind):
                return Place(split, kind, folder, files)
    if not may_share or split == "test":
        return None
    if split == "val":
        place = _look(data, "train", may_share)
        return None if place is None else dataclasses.replace(place, split="val", is_shared=True)
    # Without folders for splits, the root itself has the classes.
    return Place(split, "folders", root) if not (root / data.val).is_dir() and list_folder(root)[0] else None


def cifar_place(data: DataConfig, dataset: str, split: str) -> Place:
    """Find a split of CIFAR. Reads operations alone. Raises UserError if it is not in data.root."""
    root = _root(data)
    if (path := find_cifar(root, dataset)) is not None:
        return Place(split, "cifar", path)
    for folder in (root, root / "data", root / CIFAR[dataset].hub_folder):
        # The published test images are what validates here.
        if files := _of_split(folder, "test" if split == "val" else split, "parquet"):
            return Place(split, "cifar", folder, files)
    there = name_some([path.name for path in root.iterdir() if not is_dropping(path.name)]) or "nothing"
    others = [name for name in CIFAR if name != dataset and find_cifar(root, name) is not None]
    hint = "".join(f"; for those that are there write data.dataset={name}" for name in others)
    raise UserError(
        f"data.root: no images of {dataset} in {root} (it holds {there}); recognised would be "
        f"{', '.join(CIFAR[dataset].forms)}, and Hugging Face's parquet{hint}"
    )


def holds_out(data: DataConfig) -> bool:
    """Return whether validation images are held out of the training images, since there are no others."""
    if data.val_fraction is None:
        return False
    place = _look(data, "val", may_share=True)
    return place is not None and place.is_shared


def _in_folder(split: str, folder: Path) -> Place:
    """Return the split whose folder is there, judged by its content."""
    if (folder / "val_annotations.txt").is_file():
        return Place(split, "tiny", folder)
    folders: list[str] = []
    tars: list[Path] = []
    parquets: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_dropping(entry.name):
                continue
            if entry.name.endswith((".tar", ".parquet")):
                (tars if entry.name.endswith(".tar") else parquets).append(folder / entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
    if folders:
        has_inner = (folder / min(folders) / "images").is_dir() and split == "train"
        return Place(split, "tiny" if has_inner else "folders", folder)
    if parquets:
        return Place(split, "parquet", folder, tuple(sorted(parquets)))
    if tars:
        numbered = all(_NUMBERED.fullmatch(path.stem) for path in tars)
        return Place(split, "webdataset" if numbered else "class_tars", folder, tuple(sorted(tars)))
    return Place(split, "folders", folder)


def _of_split(folder: Path, split: str, kind: Kind) -> tuple[Path, ...]:
    """Files of several splits side by side, told by a word in their names."""
    ending = _ENDING[kind]
    number = r"\d+" if kind == "webdataset" else ".*"
    pattern = re.compile(rf"(.*[-_.])?({_WORDS[split]})([-_.]{number})?{re.escape(ending)}")
    try:
        return tuple(folder / name for name in sorted(os.listdir(folder)) if pattern.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _root(data: DataConfig) -> Path:
    assert data.root is not None, "the digits have no root"
    root = Path(data.root)
    if root.is_file():
        raise UserError(
            f"data.root: must be the folder of the images or archives: {root.parent} (given {root}, a file)"
        )
    if not root.is_dir():
        absolute = "" if root.is_absolute() else f", which is {root.absolute()}"
        raise UserError(f"data.root: must be a folder (given {data.root}{absolute})")
    return root


def _name(data: DataConfig, split: str) -> str:
    name = {"train": data.train, "val": data.val, "test": data.test}[split]
    assert name is not None, "the schema asks for data.test"
    return name


def _missing(data: DataConfig, split: str) -> UserError:
    return no_folder(split, _root(data) / _name(data, split))


def _where_else(data: DataConfig, splits: Iterable[str]) -> list[str]:
    """Say which folder data.root should be, if the one that is named lies too deep."""
    root = _root(data).absolute()
    names = {_name(data, split) for split in splits}
    folders, files, _ = list_folder(root)
    if files and not folders:
        above = f", as in data.root={root.parent.parent}" if root.parent.name in names else ""
        return [f"{root} holds images; data.root is the folder of {' and '.join(sorted(names))}, two above them{above}"]
    if folders and list_folder(root / folders[0])[1]:
        if root.name in names:
            return [f"{root} holds the class folders; data.root is the folder above: data.root={root.parent}"]
        return [f"{root} holds class folders; to take them as they are: " + " or ".join(f"data.{s}=." for s in splits)]
    return []


def _what_is_there(data: DataConfig) -> str:
    """List the content of data.root, the recognised forms, and the remedies."""
    root = _root(data)
    names = [name + ("/" if (root / name).is_dir() else "") for name in os.listdir(root) if not is_dropping(name)]
    lines = [f"there is in {root}: {name_some(names) or 'nothing'}"]
    if packed := [name for name in names if name.endswith((".zip", ".tar.gz", ".tgz")) and "devkit" not in name]:
        lines.append(f"unpack {name_some(packed)}: compressed archives are not read in place")
    lines.append(
        "recognised would be: class folders (train/<class>/x.jpg, val/<class>/x.jpg), WebDataset tar files "
        "(x-train-0000.tar, x-val-0000.tar), Hugging Face's parquet (data/train-00000-of-00001.parquet), Tiny-ImageNet "
        "and with data.dataset=imagenet ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, Kaggle's ILSVRC/; folders of "
        "other names: data.train=NAME data.val=NAME (. for data.root itself)"
    )
    if data.dataset == "folder" and data.val_fraction is None:
        lines.append("without validation images of one's own: data.val_fraction=0.1 holds out a tenth of each class")
    return "\n".join(lines)
