"""Images as WebDataset tar files, for parallel file systems, where opening a million small files takes the time.

`train-00000.tar` holds for each image `<position>.jpg` (or png, webp), its bytes, and `<position>.cls`, its label.
Beside it `train-00000.json` says what is in it and what it was made of: a tar file that is what it should be is kept,
so a killed `prepare` goes on, and the runs on one data set share the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.index import ImageRecord
from pipeline.data.shard_places import ShardPlaces
from pipeline.data.workers import WorkerDied, is_stopping, run_in_processes
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming, remove_leftovers, replacing, write_json
from pipeline.store.lock import in_turn

SHARD_BYTES = 1_000_000_000
_QUALITY = 90
_VERSION = 1
"""Raised whenever the code writes other bytes for the same images."""

Progress = Callable[[int, int, float], None]
"""Told how many images are done, of how many, and at what rate a second."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A tar file to be, and the images that go into it."""

    path: str
    root: str
    first_position: int
    records: tuple[ImageRecord, ...]
    resize_px: int | None
    """The shorter side to which longer ones are brought."""

    @property
    def digest(self) -> str:
        """SHA-256 over all that its bytes follow from."""
        rows = [(record.path, record.label, record.num_bytes, record.sha256) for record in self.records]
        content = json.dumps([_VERSION, self.first_position, self.resize_px, rows])
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def plan_shards(
    folder: Path,
    split: str,
    root: Path,
    records: Sequence[ImageRecord],
    resize_px: int | None,
    shard_bytes: int = SHARD_BYTES,
) -> list[Shard]:
    """Cut a split into shards of `shard_bytes` of the images as they are, at least one image each."""
    ends = np.cumsum([record.num_bytes for record in records])
    numbers = (ends - 1) // shard_bytes if len(records) else ends
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(records)]
    return [
        Shard(str(folder / f"{split}-{number:05d}.tar"), str(root), start, tuple(records[start:end]), resize_px)
        for number, (start, end) in enumerate(itertools.pairwise(starts))
    ]


def write_shards(
    folder: Path,
    shards: Sequence[Shard],
    stop: StopFlag,
    progress: Progress,
    note: Callable[[str], None],
    num_workers: int,
) -> None:
    """Write the shards that are not there yet; afterwards `read_shards` has what is in them.

    Runs that share a folder, as the members of an ensemble that start together do, take turns: the second waits, which
    `note` is told, and finds what the first has written. Raises StopRequested with whole shards kept; UserError where
    an image is not as it was inspected, the disk is full, or a shard is there that was made of other images or at
    another size, which another run may be reading; RuntimeError where a worker process died.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"data.shards: must be a folder, or a name that is free for one (given {folder})")
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(shard.records) for shard in shards)
    with in_turn(folder, stop, note):
        remove_leftovers(folder)
        if other := next((shard.path for shard in shards if _is_of_others(shard)), None):
            raise UserError(
                f"data.shards: {other} was made of other images, or at another size, and other runs may read it; name "
                "another folder, or delete the shards in this one"
            )
        done, begun = 0, time.monotonic()
        try:
            for shard in run_in_processes(write_shard, shards, stop, num_workers):
                done += len(shard.records)
                progress(done, total, done / (time.monotonic() - begun))
        except WorkerDied as error:
            paths = ", ".join(shard.path for shard in error.tasks)
            raise RuntimeError(f"a process that writes shards was killed at one of {paths}") from error
    if done < total:
        raise StopRequested(f"stopped by {stop.reason} after {done:,} of {total:,} images were written to shards")


def write_shard(shard: Shard) -> None:
    """Write one tar file and what is in it, unless both are there already."""
    if _read_contents(shard) is not None:
        return
    path, rows = Path(shard.path), []
    _contents(path).unlink(missing_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for position, record in enumerate(shard.records, shard.first_position):
                if is_stopping():
                    raise StopRequested("shard left unfinished")
                content, record = _stored(shard, record)
                rows.append([file.tell() + tarfile.BLOCKSIZE, *dataclasses.astuple(record)[2:]])
                _add(tar, f"{position:08d}.{_extension(record)}", content)
                _add(tar, f"{position:08d}.cls", str(record.label).encode())
        num_bytes = file.tell()
    write_json(_contents(path), {"made_of": shard.digest, "bytes": num_bytes, "images": rows})


def read_shards(shards: Sequence[Shard]) -> tuple[list[ImageRecord], ShardPlaces]:
    """The images as they are in the written shards of a split, and where each lies."""
    records, sizes, numbers, offsets = [], [], [], []
    for number, shard in enumerate(shards):
        contents = _read_contents(shard)
        assert contents is not None, f"{shard.path} was not written"
        sizes.append(contents["bytes"])
        for record, (offset, num_bytes, width, height, sha256, flags) in zip(
            shard.records, contents["images"], strict=True
        ):
            records.append(ImageRecord(record.path, record.label, num_bytes, width, height, sha256, tuple(flags)))
            numbers.append(number)
            offsets.append(offset)
    paths = [Path(shard.path) for shard in shards]
    places = ShardPlaces(
        folder=paths[0].parent.absolute(),
        files=tuple(path.name for path in paths),
        file_bytes=tuple(sizes),
        numbers=np.array(numbers, dtype=np.int64),
        offsets=np.array(offsets, dtype=np.int64),
    )
    return records, places


def _stored(shard: Shard, record: ImageRecord) -> tuple[bytes, ImageRecord]:
    """An image's bytes as they go into the shard, and its row of the index."""
    path = Path(shard.root, record.path)
    content = path.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(record.sha256):
        raise UserError(f"{path}: its content has changed since it was checked; run prepare again")
    if shard.resize_px is None or min(record.width, record.height) <= shard.resize_px:
        return content, record
    scale = shard.resize_px / min(record.width, record.height)
    width, height = round(record.width * scale), round(record.height * scale)
    with Image.open(io.BytesIO(content)) as image:
        picture = image if image.mode in ("L", "RGB") else image.convert("RGB")
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=_QUALITY)
    content = encoded.getvalue()
    flags = tuple(flag for flag in record.flags if flag == "grey")
    sha256 = hashlib.sha256(content).hexdigest()[: len(record.sha256)]
    return content, dataclasses.replace(
        record, num_bytes=len(content), width=width, height=height, sha256=sha256, flags=flags
    )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _extension(record: ImageRecord) -> str:
    return next((kind for kind in ("png", "webp") if kind in record.flags), "jpg")


def _contents(path: Path) -> Path:
    return path.with_suffix(".json")


def _read_contents(shard: Shard) -> dict[str, Any] | None:
    """What is in a written shard; None where it has yet to be written, or was made of other images."""
    contents = _read_whole(Path(shard.path))
    return contents if contents is not None and contents["made_of"] == shard.digest else None


def _is_of_others(shard: Shard) -> bool:
    """Whether a whole shard is in this one's place, and is not it."""
    contents = _read_whole(Path(shard.path))
    return contents is not None and contents["made_of"] != shard.digest


def _read_whole(path: Path) -> dict[str, Any] | None:
    """What is in the shard at `path`; None where it is not there, or not whole."""
    try:
        contents: dict[str, Any] = json.loads(_contents(path).read_bytes())
        is_whole = "made_of" in contents and path.stat().st_size == contents["bytes"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return contents if is_whole else None
