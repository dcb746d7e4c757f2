"""Images that a command line names: files, folders of them, and tar files, of which none need be of a data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.archive import members
from pipeline.data.index import UNLABELLED, ImageIndex, make_index
from pipeline.data.inspection import inspect_content
from pipeline.data.places import Places, Source
from pipeline.ground.errors import UserError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Of the files in a folder or a tar file that are taken for images; what is named itself always is."""


@dataclasses.dataclass(frozen=True)
class _Range:
    """The bytes of one image."""

    name: str
    """As it was named, of a tar file's members after the tar file's name and a colon."""
    file: str
    """Absolute."""
    offset: int
    size: int


def index_named_images(paths: Sequence[Path], complain: Callable[[str], None]) -> ImageIndex | None:
    """Return an index, without labels, of the images at `paths` in the order of the names, folder by folder.

    Files that are no images are reported to `complain` and left out. Returns None if nothing is left.
    Raises UserError naming a path that does not exist or holds no images.
    """
    kept, inspections = [], []
    for one in [found for path in paths for found in _find(path)]:
        with open(one.file, "rb") as file:
            file.seek(one.offset)
            seen = inspect_content(file.read(one.size))
        if seen.finding:
            complain(f"{one.name}: {seen.finding.replace('_', ' ')}{f' ({seen.detail})' if seen.detail else ''}")
        else:
            kept.append(one)
            inspections.append(seen)
    if not kept:
        return None
    files = list(dict.fromkeys(one.file for one in kept))
    number_of = {file: number for number, file in enumerate(files)}
    places = Places(
        tuple(file.lstrip("/") for file in files),
        tuple(os.stat(file).st_size for file in files),
        np.array([number_of[one.file] for one in kept]),
        np.array([one.offset for one in kept]),
        np.array([one.size for one in kept]),
    )
    index = make_index(
        "test",
        "folder",
        (),
        [one.name for one in kept],
        [UNLABELLED] * len(kept),
        [seen.num_bytes for seen in inspections],
        [seen.width for seen in inspections],
        [seen.height for seen in inspections],
        np.frombuffer(bytes.fromhex("".join(seen.sha256 for seen in inspections)), np.uint8),
        np.zeros(len(kept)),
    )
    return dataclasses.replace(index, source=Source("named", Path("/"), places))


def _find(path: Path) -> Iterator[_Range]:
    if path.is_dir():
        found = sorted(
            (Path(folder) / name for folder, _, names in os.walk(path) for name in names if _is_image(name)),
            key=lambda file: file.parts,
        )
    elif path.is_file() and path.suffix == ".tar":
        yield from _members(path)
        return
    elif path.is_file():
        found = [path]
    else:
        raise UserError(f"{path}: nothing there; give image files, folders with images, or .tar files of them")
    if not found:
        raise UserError(f"{path}: no images in this folder ({', '.join(sorted(_SUFFIXES))})")
    for file in found:
        yield _Range(str(file), str(file.absolute()), 0, file.stat().st_size)


def _members(path: Path) -> Iterator[_Range]:
    with path.open("rb") as file:
        found = [member for member in members(path, file) if _is_image(member.name)]
    if not found:
        raise UserError(f"{path}: no images in this tar file ({', '.join(sorted(_SUFFIXES))})")
    for member in found:
        yield _Range(f"{path}:{member.name}", str(path.absolute()), member.offset_data, member.size)


def _is_image(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in _SUFFIXES
