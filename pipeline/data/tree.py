"""One folder a class: what lies in a split's folder, before any image is opened."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.data.findings import Finding
from pipeline.ground.errors import UserError

_DROPPINGS = frozenset({"Thumbs.db", "desktop.ini"})


@dataclasses.dataclass(frozen=True)
class SplitTree:
    """The files of a split by class folder, both in sorted order; a flat split has the one folder "" (empty name)."""

    split: str
    """train, val or test."""
    root: Path
    folders: Mapping[str, tuple[str, ...]]
    findings: tuple[Finding, ...]
    """Notices about what is passed over: hidden files, a desktop's droppings, files beside the class folders."""

    @property
    def is_flat(self) -> bool:
        """Whether the images lie in the split's folder itself."""
        return "" in self.folders

    @property
    def num_files(self) -> int:
        """How many files the class folders hold."""
        return sum(len(names) for names in self.folders.values())

    def paths(self) -> Iterator[str]:
        """Each file relative to root, with forward slashes."""
        for folder, names in self.folders.items():
            for name in names:
                yield join_path(folder, name)

    def without(self, paths: Collection[str]) -> SplitTree:
        """The tree less some files, given by their paths below root."""
        left = dict(self.folders)
        for path in paths:
            folder, _, name = path.rpartition("/")
            left[folder] = tuple(other for other in left[folder] if other != name)
        return dataclasses.replace(self, folders=left)


def data_root(data: DataConfig) -> Path:
    """The folder that holds the splits; not for the digits. UserError where it is none."""
    assert data.root is not None
    root = Path(data.root)
    if not root.is_dir():
        where = "" if root.is_absolute() else f", which is {root.absolute()}"
        raise UserError(f"data.root: must be a folder (given {data.root}{where})")
    return root


def check_folders(data: DataConfig) -> None:
    """That the folders of images are there, without a look into them. UserError with all that are not."""
    if data.dataset == "digits":
        return
    root = data_root(data)
    folders = {"train": data.train, "val": data.val, "test": data.test}
    missing = [
        _no_folder(split, root / folder)
        for split, folder in folders.items()
        if folder is not None and not (root / folder).is_dir()
    ]
    if missing:
        raise UserError("\n".join(missing))


def read_tree(split: str, root: Path, *, flat_allowed: bool) -> SplitTree:
    """List a split. UserError where the folder is missing, empty or has no class folders (unless it may be flat)."""
    if not root.is_dir():
        raise UserError(_no_folder(split, root))
    try:
        folders, files, passed_over = _list(root)
        findings = [_ignored(split, name, "hidden") for name in passed_over]
        if not folders and files and flat_allowed:
            return SplitTree(split, root, {"": tuple(files)}, tuple(findings))
        findings += [_ignored(split, name, "not in a class folder") for name in files]
        contents: dict[str, tuple[str, ...]] = {}
        for folder in folders:
            inner_folders, inner_files, inner_passed_over = _list(root / folder)
            # A folder in an image's place is listed like one, so that the scan reports it.
            contents[folder] = tuple(sorted([*inner_folders, *inner_files]))
            findings += [_ignored(split, f"{folder}/{name}", "hidden") for name in inner_passed_over]
    except PermissionError as error:
        raise UserError(f"data.{split}: {error.filename} cannot be listed ({error.strerror})") from error
    if not folders:
        found = f"{len(files):,} files and no folder" if files else "nothing"
        raise UserError(f"data.{split}: {root} must hold one folder per class (it holds {found})")
    if not any(contents.values()):
        raise UserError(f"data.{split}: no images in {root} (all of its {len(folders):,} class folders are empty)")
    return SplitTree(split, root, contents, tuple(findings))


def read_flat(split: str, root: Path) -> SplitTree:
    """List a split without class folders. UserError where the folder is missing or empty or holds folders."""
    if not root.is_dir():
        raise UserError(_no_folder(split, root))
    try:
        folders, files, passed_over = _list(root)
    except PermissionError as error:
        raise UserError(f"data.{split}: {error.filename} cannot be listed ({error.strerror})") from error
    if folders or not files:
        found = f"folders: {name_some(folders)}" if folders else "nothing"
        raise UserError(f"data.{split}: {root} must hold the images themselves (it holds {found})")
    return SplitTree(split, root, {"": tuple(files)}, tuple(_ignored(split, name, "hidden") for name in passed_over))


def _no_folder(split: str, root: Path) -> str:
    return f"data.{split}: must be a folder (given {root})"


def _list(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of the folders, of the other entries, and of what is passed over, each sorted."""
    folders, files, passed_over = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _DROPPINGS:
                passed_over.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            else:
                files.append(entry.name)
    return sorted(folders), sorted(files), sorted(passed_over)


def _ignored(split: str, path: str, why: str) -> Finding:
    return Finding(split, path, "ignored", "notice", f"{why}: no loader reads it")


def join_path(folder: str, name: str) -> str:
    """Path of a file below its split's folder."""
    return f"{folder}/{name}" if folder else name


def name_some(names: Collection[str], limit: int = 10) -> str:
    """The names in sorted order, the first `limit` of them with the number of the others."""
    shown = ", ".join(sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"
