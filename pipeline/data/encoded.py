"""The encoded bytes of images, from files of their own or ranges of larger ones, read by many threads ahead."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import resource
from collections.abc import Generator
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.config.operations import LoaderConfig
from pipeline.data.index import ImageIndex
from pipeline.data.places import Places
from pipeline.ground.errors import UserError

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

WAYS_ON = (
    "these are not the images that this run was made from: put the old ones back, or begin anew with these in another "
    "run (--run)"
)
READERS = 64
"""Concurrent reads: on a parallel file system each waits for the network, not for a core. At 50 ms an operation, 64
read 600 files a second, or 1,100 images of shards; 16 read 160 and 310."""
_KEYS = {"shards": "data.shards that has the shards", "tar": "data.root", "webdataset": "data.root"}
"""The key that says where large files lie, by layout."""
_AHEAD_IMAGES = 256
"""Images to read ahead at least: enough that no reader waits for another."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """The images for a loader to read, in order, and the size of the batches."""

    index: ImageIndex
    positions: Integers
    batch: int
    loader: LoaderConfig
    compared: int
    """Number of first images that are compared with the index by SHA-256; the others by size."""


class EncodedImages:
    """Reads the images at `positions` of an index, any of them at any time and from any thread; a context manager.

    Raises UserError if a shard that they lie in is missing or of another size.
    """

    def __init__(self, index: ImageIndex, positions: Integers) -> None:
        assert index.source is not None, "the index is not located"
        self._index = index
        self._places = index.source.places
        self._open: dict[int, int] = {}
        """Descriptors of the files with the most images; the others are opened for each."""
        if self._places is not None:
            numbers, counts = np.unique(self._places.numbers[positions], return_counts=True)
            fullest = np.argsort(-counts, kind="stable")[: _may_be_open()]
            kept = set(numbers[fullest][counts[fullest] > 1].tolist())
            try:
                for number in numbers.tolist():
                    descriptor = _open_shard(index, self._places, number)
                    if number in kept:
                        self._open[number] = descriptor
                    else:
                        os.close(descriptor)
            except UserError:
                self._close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def read(self, position: int) -> bytes:
        """Return the current bytes of one image. Raises OSError if it cannot be read."""
        if self._places is None:
            with open(self._index.file(position), "rb", buffering=0) as file:
                return file.read()
        size, offset = int(self._index.num_bytes[position]), int(self._places.offsets[position])
        if (descriptor := self._open.get(int(self._places.numbers[position]))) is not None:
            return os.pread(descriptor, size, offset)
        with open(self._index.file(position), "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def problem(self, position: int) -> str | None:
        """Describe how an image differs from the index, or return None."""
        return self._read_compared(position, hashed=True)[1]

    def read_batches(self, reading: Reading) -> Generator[list[Bytes], None, None]:
        """Yield the images of each batch in order; threads read ahead.

        Raises UserError, before it yields the batch, naming an image that differs from the index.
        """
        positions, batch = reading.positions.tolist(), reading.batch
        ahead = -(-_AHEAD_IMAGES // batch)
        with concurrent.futures.ThreadPoolExecutor(READERS, thread_name_prefix="image-reader") as threads:
            begun: collections.deque[list[concurrent.futures.Future[Bytes]]] = collections.deque()
            try:
                for start in range(0, len(positions), batch):
                    rows = range(start, min(start + batch, len(positions)))
                    begun.append([threads.submit(self._take, positions[row], row < reading.compared) for row in rows])
                    if len(begun) > ahead:
                        yield [read.result() for read in begun.popleft()]
                while begun:
                    yield [read.result() for read in begun.popleft()]
            finally:
                threads.shutdown(cancel_futures=True)

    def _take(self, position: int, hashed: bool) -> Bytes:
        content, problem = self._read_compared(position, hashed)
        if problem is not None:
            raise UserError(f"{problem}\n{WAYS_ON}")
        return np.frombuffer(content, dtype=np.uint8)

    def _read_compared(self, position: int, hashed: bool) -> tuple[bytes, str | None]:
        """Return the bytes, and how they differ from the index."""
        try:
            content = self.read(position)
        except OSError as error:
            return b"", f"{self._index.name(position)}: cannot be read ({error.strerror})"
        expected = int(self._index.num_bytes[position])
        if len(content) != expected:
            return content, f"{self._index.name(position)}: {len(content):,} bytes, {expected:,} when prepare read it"
        if hashed and hashlib.sha256(content).digest() != self._index.sha256[position].tobytes():
            return content, f"{self._index.name(position)}: its content has changed (SHA-256 differs)"
        return content, None

    def _close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def read_image(index: ImageIndex, position: int) -> bytes:
    """Return the bytes of one image. Raises OSError or UserError if they cannot be read."""
    with EncodedImages(index, np.array([position])) as images:
        return images.read(position)


def _may_be_open() -> int:
    """Return how many files may stay open: ImageNet comes in 1,000 tar files and more, and 1,024 is a usual limit."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def _open_shard(index: ImageIndex, places: Places, number: int) -> int:
    assert index.source is not None
    path = index.source.folder / places.files[number]
    key = _KEYS.get(index.source.layout)
    advice = "restore it" + (f", or name another folder in {key}" if key else "")
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    num_bytes = os.fstat(descriptor).st_size
    if num_bytes != places.file_bytes[number]:
        os.close(descriptor)
        raise UserError(f"{path}: {num_bytes:,} bytes, {places.file_bytes[number]:,} when prepare wrote it; {advice}")
    return descriptor
