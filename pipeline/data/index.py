"""The dataset as `prepare` found it: every loader reads these tables and never walks a directory."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from pipeline.data.shard_places import ShardPlaces, read_places, write_places
from pipeline.store.file import write_bytes, write_json

DATASET = "dataset.json"
_COLUMNS = ("path", "label", "bytes", "width", "height", "sha256", "flags")
UNLABELLED = -1
"""The label of a test image: nobody outside the contest knows it."""


@dataclasses.dataclass(frozen=True)
class ImageClass:
    """A class; its label is its place in the sorted order of the folder names (for ImageNet: of the WordNet ids)."""

    label: int
    folder: str
    words: str
    ilsvrc2012_id: int | None
    """The contest's own id, 1 to 1000, in an order of its own; None for other datasets."""


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """One split: parallel columns, one row an image. An image's *position* is its row."""

    root: Path
    paths: Sequence[str]
    """Relative to root, with forward slashes."""
    labels: npt.NDArray[np.int64]
    """0 to K - 1; all of them UNLABELLED in the test split."""
    num_bytes: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int64]
    sha256: Sequence[str]
    """First 16 hex digits of each file's SHA-256."""
    flags: Sequence[str]
    """Comma-separated: png, cmyk, grey, exif_rotated ...; empty for an ordinary colour JPEG."""
    digest: str
    """SHA-256 of the table itself."""
    places: ShardPlaces | None = None
    """Where each image lies in tar files, if it is to be read from there."""

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, position: int) -> str:
        """Absolute path of an image's own file, which is not read where there are `places`."""
        return str(self.root / self.paths[position])

    def name(self, position: int) -> str:
        """The image as a message names it: what is read of it, and where."""
        if self.places is None:
            return self.file(position)
        return f"{self.places.shard(position)}: {self.paths[position]}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits, and the classes in label order."""

    name: str
    classes: tuple[ImageClass, ...]
    train: ImageIndex
    val: ImageIndex
    test: ImageIndex | None = None
    """The contest's unlabelled images; None where the recipe names none."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """One row of an index, before it is a table."""

    path: str
    label: int
    num_bytes: int
    width: int
    height: int
    sha256: str
    flags: tuple[str, ...] = ()


def write_dataset(
    directory: Path,
    name: str,
    classes: list[ImageClass],
    roots: dict[str, Path],
    records: Mapping[str, Sequence[ImageRecord]],
    places: Mapping[str, ShardPlaces] | None = None,
) -> list[str]:
    """Write the table of each split ("train", "val" and perhaps "test"); returns the names of the files written.

    A root inside `directory` is stored relative to it, so such a run can be moved.
    """
    names = [DATASET]
    for split, rows in records.items():
        write_bytes(directory / f"{split}.tsv", _table(rows))
        names.append(f"{split}.tsv")
        if places is not None:
            names += write_places(directory, split, places[split])
    write_json(
        directory / DATASET,
        {
            "name": name,
            "roots": {split: _portable(directory, root) for split, root in roots.items()},
            "classes": [dataclasses.asdict(image_class) for image_class in classes],
        },
    )
    return names


def read_dataset(directory: Path) -> Dataset:
    """The dataset that `prepare` described in its directory."""
    fields = json.loads((directory / DATASET).read_text())
    splits = {
        split: dataclasses.replace(
            _read_table(directory / f"{split}.tsv", directory / root), places=read_places(directory, split)
        )
        for split, root in fields["roots"].items()
    }
    classes = tuple(ImageClass(**image_class) for image_class in fields["classes"])
    return Dataset(fields["name"], classes, **splits)


def _portable(directory: Path, root: Path) -> str:
    root, directory = root.absolute(), directory.absolute()
    return str(root.relative_to(directory)) if root.is_relative_to(directory) else str(root)


def _table(records: Sequence[ImageRecord]) -> bytes:
    text = io.StringIO()
    text.write("\t".join(_COLUMNS) + "\n")
    for record in records:
        # A path may hold anything but NUL; JSON keeps tabs and newlines in it from breaking the table.
        path = json.dumps(record.path, ensure_ascii=False)
        label = "" if record.label == UNLABELLED else record.label
        row = (path, label, record.num_bytes, record.width, record.height, record.sha256, ",".join(record.flags))
        text.write("\t".join(map(str, row)) + "\n")
    return text.getvalue().encode("utf-8", "surrogateescape")


def _read_table(path: Path, root: Path) -> ImageIndex:
    content = path.read_bytes()
    header, _, _ = content.partition(b"\n")
    assert header.decode().split("\t") == list(_COLUMNS), header
    # Every process of a run reads the table, for ImageNet 1.3 million rows: cells become objects when asked for.
    characters = np.frombuffer(content, dtype=np.uint8)
    row_ends = np.flatnonzero(characters == ord("\n"))
    tabs = np.flatnonzero(characters == ord("\t")).reshape(len(row_ends), len(_COLUMNS) - 1)[1:]
    starts = np.column_stack([row_ends[:-1] + 1, tabs + 1]).T
    ends = np.column_stack([tabs, row_ends[1:]]).T
    label, num_bytes, width, height = (_parse_integers(characters, starts[i], ends[i]) for i in range(1, 5))
    label[starts[1] == ends[1]] = UNLABELLED
    return ImageIndex(
        root=root,
        paths=_TextColumn(content, starts[0], ends[0], is_json=True),
        labels=label,
        num_bytes=num_bytes,
        widths=width,
        heights=height,
        sha256=_TextColumn(content, starts[5], ends[5]),
        flags=_TextColumn(content, starts[6], ends[6]),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _parse_integers(
    characters: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The decimal numbers written from `starts` to before `ends`."""
    numbers = np.zeros(len(starts), dtype=np.int64)
    for place in range(int((ends - starts).max(initial=0))):
        left = starts + place < ends
        numbers[left] = numbers[left] * 10 + (characters[starts[left] + place] - ord("0"))
    return numbers


class _TextColumn(Sequence[str]):
    """Cells of a table as strings that are made when asked for."""

    def __init__(
        self, content: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], *, is_json: bool = False
    ) -> None:
        self._content = content
        self._starts = starts
        self._ends = ends
        self._is_json = is_json

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return _TextColumn(self._content, self._starts[row], self._ends[row], is_json=self._is_json)
        text = self._content[self._starts[row] : self._ends[row]].decode("utf-8", "surrogateescape")
        return str(json.loads(text)) if self._is_json else text
