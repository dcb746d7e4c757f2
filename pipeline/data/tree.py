"""One folder a class: the content of a split's folder, before any image is opened."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.data.findings import Finding
from pipeline.data.places import Ranges
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError

_DROPPINGS = frozenset({"Thumbs.db", "desktop.ini", "@eaDir", "#recycle", "__MACOSX", "lost+found"})
_IMAGES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".j2k",
)
"""Endings of images, also of those that are refused later."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
MAGIC_BYTES = 4


@dataclasses.dataclass(frozen=True)
class SplitTree:
    """The files of a split by class folder, both in sorted order; a flat split has the one folder "" (empty name)."""

    split: str
    """train, val or test."""
    root: Path
    """A folder or a tar file, for messages."""
    folders: Mapping[str, tuple[str, ...]]
    """In label order."""
    findings: tuple[Finding, ...]
    """Notices about what is passed over: hidden files, a desktop's droppings, what is no image."""
    layout: str = "folders"
    """See `Source`."""
    ranges: Ranges | None = None
    """By path, if the images lie in larger files."""
    has_names: bool = True
    """Whether the names are those that the images had as files; a format may have dropped them."""

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


def no_folder(split: str, folder: Path) -> UserError:
    """Return the error for a missing folder of a split."""
    alone = "; to evaluate weights without training, name them: evaluate.weights=FILE" if split == "train" else ""
    return UserError(f"data.{split}: must be a folder (given {folder}){alone}")


def read_tree(split: str, root: Path, *, flat_allowed: bool, inner: str = "") -> SplitTree:
    """List a split. `inner` is a folder in each class folder that holds its images.

    Raises UserError if the folder is missing or empty, or has no class folders and may not be flat.
    """
    if not root.is_dir():
        raise no_folder(split, root)
    try:
        folders, files, passed_over = list_folder(root)
        findings = [ignored(split, name, why) for name, why in passed_over.items()]
        if not folders and files and flat_allowed:
            return SplitTree(split, root, {"": tuple(files)}, tuple(findings), "flat")
        findings += [ignored(split, name, "not in a class folder") for name in files]
        contents: dict[str, tuple[str, ...]] = {}
        for folder in class_order(folders):
            inner_folders, inner_files, inner_passed_over = list_folder(root / folder / inner)
            # A folder in an image's place is listed like one, so that the scan reports it.
            contents[folder] = tuple(sorted([*inner_folders, *inner_files]))
            findings += [ignored(split, f"{folder}/{name}", why) for name, why in inner_passed_over.items()]
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"data.{split}: {error.filename} cannot be listed ({error.strerror})") from error
    if not folders:
        found = f"{counted(len(files), 'file')} and no folder" if files else "nothing"
        raise UserError(
            f"data.{split}: {root} must hold one folder per class (it holds {found}); move "
            "the images into folders named by their classes, or look at single images with `predict`"
        )
    if not any(contents.values()):
        raise UserError(f"data.{split}: no images in {root} (all of its {len(folders):,} class folders are empty)")
    return SplitTree(split, root, contents, tuple(findings), "images" if inner else "folders")


def read_flat(split: str, root: Path) -> SplitTree:
    """List a split without class folders. Raises UserError if the folder is missing or empty, or holds folders."""
    if not root.is_dir():
        raise no_folder(split, root)
    try:
        folders, files, passed_over = list_folder(root)
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"data.{split}: {error.filename} cannot be listed ({error.strerror})") from error
    if folders or not files:
        found = f"folders: {name_some(folders)}" if folders else "nothing"
        raise UserError(f"data.{split}: {root} must hold the images themselves (it holds {found})")
    findings = tuple(ignored(split, name, why) for name, why in passed_over.items())
    return SplitTree(split, root, {"": tuple(files)}, findings, "flat")


def list_folder(folder: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the names of the folders, of the images, and of what is passed over with the reason, each sorted."""
    folders, files, passed_over = [], [], {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_dropping(entry.name):
                passed_over[entry.name] = "hidden"
            elif entry.is_dir():
                folders.append(entry.name)
            elif has_image_ending(entry.name) or _begins_like_image(entry.path):
                files.append(entry.name)
            else:
                passed_over[entry.name] = "no image"
    return sorted(folders), sorted(files), dict(sorted(passed_over.items()))


def class_order(folders: Iterable[str]) -> list[str]:
    """Sort class folders: as numbers if all are (ImageNet-V2's are 0 to 999), otherwise as text."""
    found = list(folders)
    if all(folder.isascii() and folder.isdecimal() for folder in found):
        return sorted(found, key=lambda folder: (int(folder), folder))
    return sorted(found)


def is_dropping(name: str) -> bool:
    """Return whether the name is that of a hidden file, or of what systems leave in folders."""
    return name.startswith(".") or name in _DROPPINGS


def has_image_ending(name: str) -> bool:
    """Return whether the name ends like an image's; what is inside is looked at later."""
    return name.lower().endswith(_IMAGES)


def begins_like_image(content: bytes) -> bool:
    """Return whether the first MAGIC_BYTES are those of an image, for files whose names do not tell."""
    return content.startswith(_MAGIC)


def ignored(split: str, path: str, why: str) -> Finding:
    """Return the notice about what is passed over."""
    return Finding(split, path, "ignored", "notice", f"{why}: no loader reads it")


def _begins_like_image(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            return begins_like_image(file.read(MAGIC_BYTES))
    except OSError:
        return True  # the scan says what is wrong with it


def join_path(folder: str, name: str) -> str:
    """Return the path of a file below its split's folder."""
    return f"{folder}/{name}" if folder else name


def name_some(names: Collection[str], limit: int = 10) -> str:
    """List names in sorted order: the first `limit`, and the number of the others."""
    shown = ", ".join(sorted(names)[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"
