"""Where each image of a split lies in tar files: the table by which a loader reads any of them in any order."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.store.file import write_bytes, write_json


@dataclasses.dataclass(frozen=True)
class ShardPlaces:
    """Parallel to the rows of the split's index."""

    folder: Path
    files: tuple[str, ...]
    """The tar files' names."""
    file_bytes: tuple[int, ...]
    """Their sizes."""
    numbers: npt.NDArray[np.int64]
    """Each image's file, as a place in `files`."""
    offsets: npt.NDArray[np.int64]
    """Where in that file its bytes begin."""

    def shard(self, position: int) -> str:
        """Path of the tar file that an image lies in."""
        return str(self.folder / self.files[self.numbers[position]])


def write_places(directory: Path, split: str, places: ShardPlaces) -> list[str]:
    """Write the table into a stage directory; returns the names of the files written."""
    names = [f"{split}-shards.json", f"{split}-places.npy"]
    folder = os.path.relpath(places.folder, directory) if places.folder.is_relative_to(directory) else places.folder
    write_json(
        directory / names[0],
        {"folder": str(folder), "files": dict(zip(places.files, places.file_bytes, strict=True))},
    )
    table = io.BytesIO()
    np.save(table, np.stack([places.numbers, places.offsets], axis=1), allow_pickle=False)
    write_bytes(directory / names[1], table.getvalue())
    return names


def read_places(directory: Path, split: str) -> ShardPlaces | None:
    """The table of a stage directory; None where its images are read from their own files."""
    path = directory / f"{split}-shards.json"
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    table = np.load(directory / f"{split}-places.npy", allow_pickle=False)
    return ShardPlaces(
        folder=directory / fields["folder"],
        files=tuple(fields["files"]),
        file_bytes=tuple(fields["files"].values()),
        numbers=table[:, 0],
        offsets=table[:, 1],
    )
