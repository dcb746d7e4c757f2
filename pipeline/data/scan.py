"""Inspect every image of a split with all cores; a killed scan resumes after its last chunk.

The images are inspected in chunks, and each chunk's results are a sealed file. It holds no paths, and stays valid while
the names, labels and sizes of its images are the same, in any place. A bad image is inspected again, since it may have
been repaired.
"""

from __future__ import annotations

import bisect
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.encoded import READERS
from pipeline.data.inspection import Inspection, inspect_content, inspect_file
from pipeline.data.layout import Layout
from pipeline.data.verification import SAMPLE
from pipeline.data.workers import WorkerDied, run_in_processes
from pipeline.ground.errors import StopRequested
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming, remove_leftovers, write_bytes
from pipeline.store.seal import BrokenSeal, read_seal, remove_sealed, seal_file, verify_files

_CHUNK_IMAGES = 512
_KIND = "chunk"

Progress = Callable[[int, int, float], None]
"""Called with the number of finished images, the total, and the rate per second."""
Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Some images of one class, inspected by one process in one go."""

    names: tuple[str, ...]
    label: int
    paths: tuple[str, ...]
    spans: tuple[tuple[int, int] | None, ...]
    """Offset and length of each image in its file; None if the file is its own."""
    results: str
    """Path of the sealed file."""

    def made_from(self) -> str:
        """Return what the results depend on: names, label and sizes of the images as they are now."""
        return _hash([self.names, self.label, [self.size(row) for row in range(len(self.names))]])

    def size(self, row: int) -> int:
        """Return the bytes of an image as it is now, or -1 if it cannot be looked at."""
        span = self.spans[row]
        return _size(self.paths[row]) if span is None else span[1]

    def inspect(self, row: int) -> Inspection:
        """Inspect an image as it is now."""
        span = self.spans[row]
        if span is None:
            return inspect_file(self.paths[row])
        try:
            return inspect_content(_read_range(self.paths[row], *span))
        except OSError as error:
            return Inspection(finding="unreadable", detail=error.strerror or str(error))

    def sha256(self, row: int) -> str | None:
        """Return the checksum of an image as it is now. Returns None if it cannot be read."""
        span = self.spans[row]
        try:
            if span is not None:
                return hashlib.sha256(_read_range(self.paths[row], *span)).hexdigest()
            with open(self.paths[row], "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


def plan_chunks(layout: Layout, folder: Path) -> list[Chunk]:
    """Cut the images of each class into chunks whose results go to the directory `folder`."""
    chunks, source = [], layout.source
    for label, of_class in itertools.groupby(range(len(layout.names)), key=layout.labels.__getitem__):
        all_rows = list(of_class)
        for start in range(0, len(all_rows), _CHUNK_IMAGES):
            rows = all_rows[start : start + _CHUNK_IMAGES]
            names = tuple(layout.names[row] for row in rows)
            paths = tuple(source.file(layout.names[row], row) for row in rows)
            spans = tuple(source.span(row) for row in rows)
            chunks.append(Chunk(names, label, paths, spans, str(folder / f"{_hash(names)[:20]}.json")))
    return chunks


def scan(
    chunks: Sequence[Chunk], folder: Path, stop: StopFlag, progress: Progress, note: Note, num_workers: int
) -> None:
    """Inspect the images of all chunks, for `read_inspections` to read.

    Raises StopRequested between chunks, keeping finished ones; RuntimeError if a worker process died.
    """
    with naming(folder):
        folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    _check_kept(_whole(chunks, note), note)
    total = sum(len(chunk.names) for chunk in chunks)
    done, begun = 0, time.monotonic()
    try:
        for chunk in run_in_processes(inspect_chunk, chunks, stop, num_workers):
            done += len(chunk.names)
            progress(done, total, done / (time.monotonic() - begun))
    except WorkerDied as error:
        raise RuntimeError(_worker_death(error.tasks)) from error
    if done < total:
        raise StopRequested(f"stopped by {stop.reason} after {done:,} of {total:,} images were checked")


def read_inspections(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Sequence[Inspection]]]:
    """Yield each scanned chunk with the results of its images, in the order of `chunks`."""
    for chunk in chunks:
        yield chunk, _read_results(chunk)


def inspect_chunk(chunk: Chunk) -> None:
    """Inspect a chunk's images, except those known as good, and seal the results."""
    path, made_from = Path(chunk.results), chunk.made_from()
    seal = read_seal(path, _KIND)
    is_same = seal is not None and seal.about["made_from"] == made_from
    kept: Sequence[Inspection | None] = _read_results(chunk) if is_same else [None] * len(chunk.names)
    results = [
        known if known is not None and not known.finding else chunk.inspect(row) for row, known in enumerate(kept)
    ]
    if results != kept:
        remove_sealed(path)
        write_bytes(path, json.dumps([dataclasses.asdict(result) for result in results]).encode())
        seal_file(path, _KIND, {"made_from": made_from})


def _whole(chunks: Sequence[Chunk], note: Note) -> list[Chunk]:
    """Return the chunks of an earlier attempt. Removes damaged ones and says so."""
    kept, damaged = [], []
    for chunk in chunks:
        path = Path(chunk.results)
        try:
            if (seal := read_seal(path, _KIND)) is not None:
                verify_files(path, seal)
                kept.append(chunk)
        except BrokenSeal as error:
            damaged.append(str(error))
            remove_sealed(path)
    if damaged:
        note(f"damaged results of an earlier attempt, {len(damaged):,} in all, are made again ({damaged[0]})")
    return kept


def _check_kept(chunks: Sequence[Chunk], note: Note) -> None:
    """Compare a sample of the images with their results; if one differs, remove all results and say so."""
    ends = list(itertools.accumulate(len(chunk.names) for chunk in chunks))
    if not ends:
        return
    results: dict[int, Sequence[Inspection]] = {}

    def change(number: int) -> str | None:
        place = bisect.bisect_right(ends, number)
        row = number - ends[place]  # from the chunk's end
        chunk, known = chunks[place], results[place][row]
        if known.finding or chunk.size(row) != known.num_bytes:
            return None  # such a chunk is looked at again anyway
        return None if chunk.sha256(row) == known.sha256 else chunk.paths[row]

    sample = random.sample(range(ends[-1]), min(SAMPLE, ends[-1]))
    for place in {bisect.bisect_right(ends, number) for number in sample}:
        results[place] = _read_results(chunks[place])
    with concurrent.futures.ThreadPoolExecutor(READERS) as threads:
        changed = [path for path in threads.map(change, sample) if path is not None]
    if changed:
        for chunk in chunks:
            remove_sealed(Path(chunk.results))
        note(f"{changed[0]}: not the image that an earlier attempt checked; all images are checked again")


def _read_results(chunk: Chunk) -> list[Inspection]:
    rows = json.loads(Path(chunk.results).read_bytes())
    return [Inspection(**{**row, "flags": tuple(row["flags"])}) for row in rows]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _read_range(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _worker_death(in_work: Sequence[Chunk]) -> str:
    places = "\n".join(f"  {chunk.paths[0]} to {os.path.basename(chunk.paths[-1])}" for chunk in in_work)
    return (
        "a process that checks images was killed, by the system for lack of memory or by a decoder's crash, at one of\n"
        f"{places}\nwhat was done before is kept: run the same command again"
    )
