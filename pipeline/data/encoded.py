"""The encoded bytes of images, from their own files or from shards."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.data.index import ImageIndex
from pipeline.data.shard_places import ShardPlaces
from pipeline.ground.errors import UserError

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_ADVICE = "restore it, or name another folder in data.shards, for prepare to write them anew"
_READERS = 16
"""Reads that are under way at once: on a parallel file system each waits for the network, not for a core."""


class EncodedImages:
    """Reads the images at `positions` of an index, any of them at any time and from any thread; a context manager.

    UserError where a shard that they lie in is missing or of another size.
    """

    def __init__(self, index: ImageIndex, positions: Integers) -> None:
        self._index = index
        self._shards: dict[int, int] = {}
        if index.places is not None:
            try:
                for number in np.unique(index.places.numbers[positions]).tolist():
                    self._shards[number] = _open_shard(index.places, number)
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
        """The bytes of one image; fewer where its file has become shorter. OSError where it cannot be read."""
        places = self._index.places
        if places is None:
            return Path(self._index.file(position)).read_bytes()
        shard, size = self._shards[int(places.numbers[position])], int(self._index.num_bytes[position])
        return os.pread(shard, size, int(places.offsets[position]))

    def read_batches(self, positions: Integers, batch: int, ahead: int) -> Generator[list[Bytes], None, None]:
        """The images at `positions` in their order, `batch` at a time, read by threads `ahead` batches before."""
        with concurrent.futures.ThreadPoolExecutor(_READERS, thread_name_prefix="shard-reader") as threads:
            begun: collections.deque[list[concurrent.futures.Future[bytes]]] = collections.deque()
            try:
                for start in range(0, len(positions), batch):
                    begun.append([threads.submit(self.read, position) for position in positions[start : start + batch]])
                    if len(begun) > ahead:
                        yield _arrays(begun.popleft())
                while begun:
                    yield _arrays(begun.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def _close(self) -> None:
        for descriptor in self._shards.values():
            os.close(descriptor)
        self._shards.clear()


def _open_shard(places: ShardPlaces, number: int) -> int:
    path = places.folder / places.files[number]
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
    num_bytes = os.fstat(descriptor).st_size
    if num_bytes != places.file_bytes[number]:
        os.close(descriptor)
        raise UserError(f"{path}: {num_bytes:,} bytes, {places.file_bytes[number]:,} when prepare wrote it; {_ADVICE}")
    return descriptor


def _arrays(reads: list[concurrent.futures.Future[bytes]]) -> list[Bytes]:
    return [np.frombuffer(read.result(), dtype=np.uint8) for read in reads]
