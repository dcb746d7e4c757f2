"""Where the bytes of a split's images lie: in files of their own, or in ranges of tar files.

The root comes from the recipe of each attempt and stands in no shared file; containers are relative to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.store.file import write_bytes, write_json


@dataclasses.dataclass(frozen=True)
class Places:
    """Ranges of tar files, parallel to the rows of an index. A range is as long as the row says."""

    files: tuple[str, ...]
    file_bytes: tuple[int, ...]
    numbers: npt.NDArray[np.int64]
    """Each image's file, as a place in `files`."""
    offsets: npt.NDArray[np.int64]
    """First byte of each image in its file."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The folder of a split's images, and its layout."""

    layout: Literal["folders", "flat", "shards"]
    """folders: each image under its name. flat: under its name without the class folder. shards: as in `places`."""
    folder: Path
    places: Places | None = None

    def file(self, name: str, position: int) -> str:
        """Return the path of the file that holds the image of this name and row."""
        if self.places is not None:
            return f"{self.folder}/{self.places.files[self.places.numbers[position]]}"
        return f"{self.folder}/{name if self.layout == 'folders' else name.rpartition('/')[2]}"


def write_places(directory: Path, digest: str, places: Places) -> None:
    """Write places-shards.json and places-shards.npy beside the index of this digest. They are no part of its seal."""
    table = io.BytesIO()
    np.save(table, np.stack([places.numbers, places.offsets], axis=1), allow_pickle=False)
    write_bytes(directory / "places-shards.npy", table.getvalue())
    about = {
        "index": digest,
        "sha256": hashlib.sha256(table.getbuffer()).hexdigest(),
        "files": dict(zip(places.files, places.file_bytes, strict=True)),
    }
    write_json(directory / "places-shards.json", about)


def read_places(directory: Path, digest: str) -> Places | None:
    """Read the places beside an index. Returns None if they are missing, damaged, or of another index."""
    try:
        about = json.loads((directory / "places-shards.json").read_bytes())
        content = (directory / "places-shards.npy").read_bytes()
        if about["index"] != digest or hashlib.sha256(content).hexdigest() != about["sha256"]:
            return None
        table = np.load(io.BytesIO(content), allow_pickle=False)
        return Places(tuple(about["files"]), tuple(about["files"].values()), table[:, 0], table[:, 1])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
