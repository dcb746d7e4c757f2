"""Inspecting every file of a dataset with all cores, so that a killed scan goes on where it stopped.

The files are inspected in chunks, and each chunk's results are kept in a part file. A good file is not read again while
its size and modification time stay what they were; a bad one is, since it may have been repaired.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.data.inspection import Inspection, inspect_file
from pipeline.data.workers import WorkerDied, run_in_processes
from pipeline.ground.errors import StopRequested
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming, write_bytes

_CHUNK_IMAGES = 512

Progress = Callable[[int, int, float], None]
"""Told how many files are done, of how many, and at what rate a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Some files of one folder, inspected by one process in one go."""

    root: str
    folder: str
    """Below root; empty for root itself."""
    names: tuple[str, ...]
    part: str
    """Path of the part file."""


def plan_chunks(root: Path, folders: Mapping[str, Sequence[str]], parts: Path) -> list[Chunk]:
    """Cut the files of each folder into chunks whose results go to the directory `parts`."""
    chunks = []
    for folder, names in folders.items():
        for start in range(0, len(names), _CHUNK_IMAGES):
            key = hashlib.sha256(f"{root}\0{folder}\0{start}".encode("utf-8", "surrogateescape")).hexdigest()[:20]
            part = str(parts / f"{key}.json")
            chunks.append(Chunk(str(root), folder, tuple(names[start : start + _CHUNK_IMAGES]), part))
    return chunks


def scan(chunks: Sequence[Chunk], parts: Path, stop: StopFlag, progress: Progress, num_workers: int) -> None:
    """Inspect the files of all chunks; afterwards `read_inspections` has the results.

    Raises StopRequested between chunks, with what was done kept; RuntimeError where a worker process died.
    """
    with naming(parts):
        parts.mkdir(exist_ok=True)
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


def read_inspections(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, Mapping[str, Inspection]]]:
    """The results of each scanned chunk, by file name, in the order of `chunks`."""
    for chunk in chunks:
        kept = _read_part(chunk.part)
        yield chunk, {name: kept[name][1] for name in chunk.names}


_Stamp = tuple[int, int]
_Part = dict[str, tuple[_Stamp, Inspection]]


def inspect_chunk(chunk: Chunk) -> None:
    """Inspect a chunk's files, except those that its part file knows as good and unchanged, and write the part."""
    kept = _read_part(chunk.part)
    results: _Part = {}
    for name in chunk.names:
        path = os.path.join(chunk.root, chunk.folder, name)
        stamp = _stamp(path)
        known = kept.get(name)
        still_good = known is not None and known[0] == stamp and not known[1].finding
        results[name] = known if known is not None and still_good else (stamp, inspect_file(path))
    if results != kept:
        rows = [[name, *stamp, *dataclasses.astuple(inspection)] for name, (stamp, inspection) in results.items()]
        write_bytes(Path(chunk.part), json.dumps(rows).encode())


def _read_part(part: str) -> _Part:
    try:
        rows = json.loads(Path(part).read_bytes())
    except FileNotFoundError:
        return {}
    results: _Part = {}
    for name, size, modified, num_bytes, width, height, sha256, flags, finding, detail in rows:
        inspection = Inspection(num_bytes, width, height, sha256, tuple(flags), finding, detail)
        results[name] = ((size, modified), inspection)
    return results


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return status.st_size, status.st_mtime_ns


def _worker_death(in_work: Sequence[Chunk]) -> str:
    places = "\n".join(
        f"  {os.path.join(chunk.root, chunk.folder)}: {chunk.names[0]} to {chunk.names[-1]}" for chunk in in_work
    )
    return (
        "a process that checks images was killed, by the system for lack of memory or by a decoder's crash, at one of\n"
        f"{places}\nwhat was done before is kept: run the same command again"
    )
