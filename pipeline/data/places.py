"""Where the bytes of a split's images lie: in files of their own, or in ranges of larger files.

The root comes from the recipe of each attempt and stands in no shared file; containers are relative to it.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.store.file import write_bytes, write_json

LOOSE = {"folders": "{folder}/{file}", "flat": "{file}", "images": "{folder}/images/{file}"}
"""Layouts of files of their own: the path of the image `<folder>/<file>`."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Ranges of larger files, parallel to the rows of an index."""

    files: tuple[str, ...]
    file_bytes: tuple[int, ...]
    numbers: npt.NDArray[np.int64]
    """Each image's file, as a place in `files`."""
    offsets: npt.NDArray[np.int64]
    """The byte of that file at which the image begins."""
    lengths: npt.NDArray[np.int64]

    def take(self, rows: npt.ArrayLike) -> Places:
        """Return those of some rows, in the order given."""
        chosen = np.asarray(rows, dtype=np.int64)
        columns = (self.numbers[chosen], self.offsets[chosen], self.lengths[chosen])
        return Places(self.files, self.file_bytes, *columns)

    def fits(self, folder: Path) -> bool:
        """Return whether all files are there, with their sizes."""
        try:
            sizes = [(folder / file).stat().st_size for file in self.files]
        except OSError:
            return False
        return sizes == list(self.file_bytes)


class Ranges:
    """Ranges by name, as a layout finds them; kept compactly, since there are a million."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """What containers are relative to."""
        self._files: list[str] = []
        self._file_bytes: list[int] = []
        self._rows: dict[str, int] = {}
        self._table = array.array("q")

    def add_file(self, path: Path) -> int:
        """Add a container; returns its number."""
        self._files.append(os.path.relpath(path, self.folder))
        self._file_bytes.append(path.stat().st_size)
        return len(self._files) - 1

    def add(self, name: str, number: int, offset: int, length: int) -> None:
        """Add the place of an image. A name that is there already is now here."""
        self._rows[name] = len(self._table) // 3
        self._table.extend((number, offset, length))

    def rename(self, change: Callable[[str], str]) -> None:
        """Change all names."""
        self._rows = {change(name): row for name, row in self._rows.items()}

    def take(self, names: Iterable[str]) -> Places | None:
        """Return the places of these images. Returns None if one of them is not here."""
        try:
            rows = [self._rows[name] for name in names]
        except KeyError:
            return None
        table = np.array(self._table, dtype=np.int64).reshape(-1, 3)[rows]
        return Places(tuple(self._files), tuple(self._file_bytes), table[:, 0], table[:, 1], table[:, 2])


@dataclasses.dataclass(frozen=True)
class Source:
    """The folder of a split's images, and its layout."""

    layout: str
    """One of LOOSE; or any other: as `places` or `read_pixels` says."""
    folder: Path
    places: Places | None = None
    read_pixels: Callable[[], npt.NDArray[np.uint8]] | None = None
    """Reads all images, (N, H, W, 3), if they live in memory; `folder` is then what they are read from."""

    @functools.cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The images in memory, a row each; read at the first use."""
        assert self.read_pixels is not None, "the images are files"
        return self.read_pixels()

    def take(self, rows: npt.ArrayLike) -> Source:
        """Return the source of some rows, in the order given."""
        places = None if self.places is None else self.places.take(rows)
        read = None if self.read_pixels is None else lambda: self.pixels[np.asarray(rows, dtype=np.int64)]
        return dataclasses.replace(self, places=places, read_pixels=read)

    def file(self, name: str, position: int) -> str:
        """Return the path of the file that holds the image of this name and row."""
        if self.places is not None:
            return f"{self.folder}/{self.places.files[self.places.numbers[position]]}"
        if self.read_pixels is not None:
            return str(self.folder)
        folder, _, file = name.rpartition("/")
        return f"{self.folder}/{LOOSE[self.layout].format(folder=folder, file=file) if folder else file}"

    def span(self, position: int) -> tuple[int, int] | None:
        """Return offset and length of a row in its file. Returns None if the file is the image's own."""
        if self.places is None:
            return None
        return int(self.places.offsets[position]), int(self.places.lengths[position])


def write_places(directory: Path, digest: str, places: Places, layout: str = "shards") -> None:
    """Write places-<layout>.json and .npy beside the index of this digest. They are no part of its seal."""
    table = io.BytesIO()
    np.save(table, np.stack([places.numbers, places.offsets, places.lengths], axis=1), allow_pickle=False)
    write_bytes(directory / f"places-{layout}.npy", table.getvalue())
    about = {
        "index": digest,
        "sha256": hashlib.sha256(table.getbuffer()).hexdigest(),
        "files": dict(zip(places.files, places.file_bytes, strict=True)),
    }
    write_json(directory / f"places-{layout}.json", about)


def read_places(directory: Path, digest: str, layout: str = "shards") -> Places | None:
    """Read what `write_places` wrote. Returns None if it is not there, damaged, or of another index."""
    try:
        about = json.loads((directory / f"places-{layout}.json").read_bytes())
        content = (directory / f"places-{layout}.npy").read_bytes()
        if about["index"] != digest or hashlib.sha256(content).hexdigest() != about["sha256"]:
            return None
        table = np.load(io.BytesIO(content), allow_pickle=False)
        files = about["files"]
        return Places(tuple(files), tuple(files.values()), table[:, 0], table[:, 1], table[:, 2])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
