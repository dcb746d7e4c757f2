"""The index of a split: one row an image, as `prepare` found them. Loaders read it and never walk a directory.

    index.json    split, data set, number of images, digest
    names.txt     canonical names in UTF-8, one a line: `<class folder>/<file>`, or `<file>` for unlabelled images
    rows.npy      a structured array: label, num_bytes, width, height, flags, sha256, and where the name ends
    classes.json  label, folder, words and ILSVRC2012_ID of each class

All is mapped into memory, which the processes of a node share; no Python object is made for a row before it is asked
for. An image's *position* is its row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pipeline.data.places import LOOSE, Source
from pipeline.ground.errors import UserError
from pipeline.store.file import replacing, write_bytes, write_json

INDEX = "index.json"
_NAMES, _ROWS, _CLASSES = "names.txt", "rows.npy", "classes.json"
UNLABELLED = -1
"""The label of test images: nobody outside the contest knows it."""
FLAGS = ("mpo", "png", "webp", "cmyk", "grey", "palette", "alpha", "exif_rotated")
"""Peculiarities of an image; each is a bit of `ImageIndex.flags`, the first one the lowest."""

Integers = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]
_NUMBERS = ("label", "num_bytes", "width", "height", "flags", "name_end")
_ROW = np.dtype([*((name, "<i8") for name in _NUMBERS), ("sha256", "u1", (32,))])


@dataclasses.dataclass(frozen=True)
class ImageClass:
    """A class; its label is its place in the sorted order of the folder names (for ImageNet: of the WordNet ids)."""

    label: int
    folder: str
    words: str
    ilsvrc2012_id: int | None
    """The contest's own id, 1 to 1000, in an order of its own; None for other datasets."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageIndex:
    """The rows of one split as parallel columns, and the classes in label order."""

    split: str
    dataset: str
    classes: tuple[ImageClass, ...]
    names: Sequence[str]
    """Canonical names, independent of the folder and the layout that the images are stored in."""
    labels: Integers
    """0 to K - 1; all of them UNLABELLED in the test split."""
    num_bytes: Integers
    widths: Integers
    heights: Integers
    sha256: Digests
    """(N, 32)."""
    flags: Integers
    """Bits in the order of FLAGS; 0 for an ordinary colour JPEG."""
    digest: str
    """See `digest_rows`."""
    source: Source | None = None
    """Place of the images; see `pipeline.data.source.locate`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are pixels in memory, already decoded."""
        return self.source is not None and self.source.read_pixels is not None

    def file(self, position: int) -> str:
        """Return the path of the file that holds an image: its own, or a shard."""
        assert self.source is not None, "the index is not located"
        return self.source.file(self.names[position], position)

    def name(self, position: int) -> str:
        """Name an image in a message: its name and its file."""
        if self.source is None:
            return f"{self.split}/{self.names[position]}"
        file = self.file(position)
        return file if self.source.layout in LOOSE else f"{file}: {self.names[position]}"

    def take(self, positions: Integers) -> ImageIndex:
        """Return some of the rows, in the order given, as an index of their own."""
        names = tuple(self.names[position] for position in positions.tolist())
        columns = (self.labels, self.num_bytes, self.widths, self.heights, self.sha256, self.flags)
        rows = make_index(self.split, self.dataset, self.classes, names, *(column[positions] for column in columns))
        return dataclasses.replace(rows, source=None if self.source is None else self.source.take(positions))

    def count_flags(self) -> dict[str, int]:
        """Count the images with each flag, omitting zeros."""
        counts = {name: int(np.count_nonzero(self.flags & (1 << bit))) for bit, name in enumerate(FLAGS)}
        return {name: count for name, count in sorted(counts.items()) if count}


def make_index(
    split: str,
    dataset: str,
    classes: Sequence[ImageClass],
    names: Sequence[str],
    labels: npt.ArrayLike,
    num_bytes: npt.ArrayLike,
    widths: npt.ArrayLike,
    heights: npt.ArrayLike,
    sha256: npt.ArrayLike,
    flags: npt.ArrayLike,
) -> ImageIndex:
    """Build an index from columns. Raises UserError if a name is not UTF-8."""
    columns: dict[str, Any] = {
        "labels": np.asarray(labels, dtype=np.int64),
        "num_bytes": np.asarray(num_bytes, dtype=np.int64),
        "widths": np.asarray(widths, dtype=np.int64),
        "heights": np.asarray(heights, dtype=np.int64),
        "sha256": np.asarray(sha256, dtype=np.uint8).reshape(-1, 32),
    }
    digest = digest_rows(names, **columns)
    all_flags = np.asarray(flags, dtype=np.int64)
    return ImageIndex(split, dataset, tuple(classes), names, **columns, flags=all_flags, digest=digest)


def digest_rows(
    names: Sequence[str], labels: Integers, num_bytes: Integers, widths: Integers, heights: Integers, sha256: Digests
) -> str:
    """Return a digest that identifies the images, however they are stored.

    It is the SHA-256, in hexadecimal, of: the number of rows; every name in UTF-8 with a NUL behind it; the columns
    labels, num_bytes, widths and heights, one after the other; the images' own SHA-256. Numbers are 8 bytes,
    little-endian.
    """
    digest = hashlib.sha256(len(names).to_bytes(8, "little"))
    digest.update(b"".join(_encode(name, b"\0") for name in names))
    for column in (labels, num_bytes, widths, heights):
        digest.update(np.ascontiguousarray(column, dtype="<i8").data)
    digest.update(np.ascontiguousarray(sha256).data)
    return digest.hexdigest()


def write_index(directory: Path, index: ImageIndex) -> list[str]:
    """Write the index into a directory. Returns the names of the files written."""
    lines = [_encode(name, b"\n") for name in index.names]
    rows = np.empty(len(index), dtype=_ROW)
    columns = (index.labels, index.num_bytes, index.widths, index.heights, index.flags)
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    for name, column in zip(_NUMBERS, (*columns, ends), strict=True):
        rows[name] = column
    rows["sha256"] = index.sha256
    write_bytes(directory / _NAMES, b"".join(lines))
    with replacing(directory / _ROWS) as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    write_json(directory / _CLASSES, [dataclasses.asdict(image_class) for image_class in index.classes])
    about = {"split": index.split, "dataset": index.dataset, "images": len(index), "digest": index.digest}
    write_json(directory / INDEX, about)
    return [INDEX, _NAMES, _ROWS, _CLASSES]


def read_index(directory: Path) -> ImageIndex:
    """Map the index in a directory into memory, without the place of its images."""
    about = json.loads((directory / INDEX).read_bytes())
    classes = tuple(ImageClass(**fields) for fields in json.loads((directory / _CLASSES).read_bytes()))
    rows: npt.NDArray[Any] = np.asarray(np.load(directory / _ROWS, mmap_mode="r", allow_pickle=False))
    assert rows.dtype == _ROW, f"{directory / _ROWS}: {rows.dtype}"
    text = np.asarray(np.memmap(directory / _NAMES, dtype=np.uint8, mode="r"))
    return ImageIndex(
        split=about["split"],
        dataset=about["dataset"],
        classes=classes,
        names=_Names(text, rows["name_end"]),
        labels=rows["label"],
        num_bytes=rows["num_bytes"],
        widths=rows["width"],
        heights=rows["height"],
        sha256=rows["sha256"],
        flags=rows["flags"],
        digest=about["digest"],
    )


def check_num_classes(index: ImageIndex, num_classes: int | None) -> None:
    """Raise UserError unless the network has one output for each class of the images; None: they are counted."""
    if num_classes not in (None, len(index.classes)):
        raise UserError(
            f"model.num_classes: must be {len(index.classes):,}, the number of classes of the {index.split} images "
            f"(given {num_classes:,}); write model.num_classes={len(index.classes)}, or null to have them counted"
        )


def _encode(name: str, end: bytes) -> bytes:
    try:
        return name.encode() + end
    except UnicodeEncodeError:
        raise UserError(f"{name!r}: the file's name is not UTF-8; rename it") from None


class _Names(Sequence[str]):
    """Lines of names.txt as strings, created on access."""

    def __init__(self, text: npt.NDArray[np.uint8], ends: Integers) -> None:
        self._text = text
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return tuple(self[number] for number in range(*row.indices(len(self))))
        row = range(len(self))[row]
        start = self._ends[row - 1] if row else 0
        return self._text[start : self._ends[row] - 1].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        content, start = self._text.tobytes(), 0
        for end in self._ends.tolist():
            yield content[start : end - 1].decode()
            start = end
