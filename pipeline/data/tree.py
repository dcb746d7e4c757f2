"""One folder a class: the content of a split's folder, before any image is opened."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    """Notices about ignored entries: hidden files, files of a desktop, files beside the class folders."""

    @property
    def is_flat(self) -> bool:
        """Whether the images lie in the split's folder itself."""
        return "" in self.folders

    @property
    def num_files(self) -> int:
        """Number of files in the class folders."""
        return sum(len(names) for names in self.folders.values())

    def paths(self) -> Iterator[str]:
        """Yield each file relative to root, with forward slashes."""
        for folder, names in self.folders.items():
            for name in names:
                yield join_path(folder, name)


def split_folder(data: DataConfig, split: str) -> Path:
    """Return the folder of a split; not for the digits. Raises UserError if data.root is no folder."""
    assert data.root is not None
    root = Path(data.root)
    if not root.is_dir():
        absolute = "" if root.is_absolute() else f", which is {root.absolute()}"
        raise UserError(f"data.root: must be a folder (given {data.root}{absolute})")
    name = {"train": data.train, "val": data.val, "test": data.test}[split]
    assert name is not None, "the schema asks for data.test"
    return root / name


def check_folders(data: DataConfig, splits: Iterable[str]) -> None:
    """Check that the folders of these splits exist, without reading them.

    Raises UserError naming all that are missing.
    """
    if data.dataset == "digits":
        return
    missing = [str(no_folder(split, folder)) for split in splits if not (folder := split_folder(data, split)).is_dir()]
    if missing:
        raise UserError("\n".join(missing))


def no_folder(split: str, folder: Path) -> UserError:
    """Return the error for a missing folder of a split."""
    return UserError(f"data.{split}: must be a folder (given {folder})")


def read_tree(split: str, root: Path, *, flat_allowed: bool) -> SplitTree:
    """List a split.

    Raises UserError if the folder is missing or empty, or has no class folders and may not be flat.
    """
    if not root.is_dir():
        raise no_folder(split, root)
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
    """List a split without class folders. Raises UserError if the folder is missing or empty, or holds folders."""
    if not root.is_dir():
        raise no_folder(split, root)
    try:
        folders, files, passed_over = _list(root)
    except PermissionError as error:
        raise UserError(f"data.{split}: {error.filename} cannot be listed ({error.strerror})") from error
    if folders or not files:
        found = f"folders: {name_some(folders)}" if folders else "nothing"
        raise UserError(f"data.{split}: {root} must hold the images themselves (it holds {found})")
    return SplitTree(split, root, {"": tuple(files)}, tuple(_ignored(split, name, "hidden") for name in passed_over))


def _list(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the folders, of the other entries, and of ignored ones, each sorted."""
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
    """Return the path of a file below its split's folder."""
    return f"{folder}/{name}" if folder else name


def name_some(names: Collection[str], limit: int = 10) -> str:
    """List names in sorted order: the first `limit`, and the number of the others."""
    shown = ", ".join(sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"
