"""Images as WebDataset tar files, for parallel file systems, which are slow at opening a million small files.

`train-00000.tar` holds for each image `<position>.jpg` (or png, webp), its bytes, and `<position>.cls`, its label.
Beside it `train-00000.seal.json` records its inputs and the range of each image: a valid tar file is kept, so a killed
`prepare` resumes, and the runs on one data set use the same files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.archive import add_member
from pipeline.data.encoded import read_image
from pipeline.data.index import FLAGS, ImageIndex, make_index
from pipeline.data.places import Places
from pipeline.data.workers import WorkerDied, is_stopping, run_in_processes
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming, remove_leftovers, replacing
from pipeline.store.lock import in_turn
from pipeline.store.seal import BrokenSeal, Seal, read_whole_file_seal, remove_sealed, seal_file

SHARD_BYTES = 1_000_000_000
_QUALITY = 90
_KIND = "shard"
_VERSION = 2
"""Raised whenever the code writes other bytes for the same images."""
_GREY = 1 << FLAGS.index("grey")

Progress = Callable[[int, int, float], None]
"""Called with the number of finished images, the total, and the rate per second."""
Row = tuple[int, int, int, int, str]
"""Size in bytes, width, height, flags and SHA-256 of a stored image."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A tar file to write, and the images for it."""

    path: str
    first_position: int
    images: ImageIndex
    """Their rows, located."""
    resize_px: int | None
    """Shorter side to which larger images are resized."""

    def made_from(self) -> str:
        """Return the facts that its bytes depend on."""
        content = json.dumps([_VERSION, self.first_position, self.resize_px, self.images.digest])
        return hashlib.sha256(content.encode()).hexdigest()


def plan_shards(folder: Path, index: ImageIndex, resize_px: int | None, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Divide a split into shards of `shard_bytes` of the images' present size, at least one image each."""
    numbers = (np.cumsum(index.num_bytes) - 1) // shard_bytes
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(index)]
    return [
        Shard(str(folder / f"{index.split}-{number:05d}.tar"), start, index.take(np.arange(start, end)), resize_px)
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
    """Write the missing shards, for `read_shards` to read.

    Runs that use the same folder, as members of an ensemble that start together do, take turns: the second waits, after
    calling `note`, and finds the first one's shards. Raises StopRequested, keeping whole shards; UserError if an image
    has changed since its inspection, or if a shard of other images or another size is there, which another run may be
    reading; RuntimeError if a worker process died.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"data.shards: must be a folder, or a name that is free for one (given {folder})")
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(shard.images) for shard in shards)
    with in_turn(folder, stop, note):
        remove_leftovers(folder)
        for shard in shards:
            _check_place(shard, note)
        done, begun = 0, time.monotonic()
        try:
            for shard in run_in_processes(write_shard, shards, stop, num_workers):
                done += len(shard.images)
                progress(done, total, done / (time.monotonic() - begun))
        except WorkerDied as error:
            paths = ", ".join(shard.path for shard in error.tasks)
            raise RuntimeError(f"a process that writes shards was killed at one of {paths}") from error
    if done < total:
        raise StopRequested(f"stopped by {stop.reason} after {done:,} of {total:,} images were written to shards")


def write_shard(shard: Shard) -> None:
    """Write one tar file and seal it, unless it exists already."""
    path, made_from, rows = Path(shard.path), shard.made_from(), []
    with contextlib.suppress(BrokenSeal):
        seal = read_whole_file_seal(path, _KIND)
        if seal is not None and seal.about["made_from"] == made_from:
            return
    remove_sealed(path)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row in range(len(shard.images)):
            if is_stopping():
                raise StopRequested("shard left unfinished")
            content, stored = _stored(shard, row)
            position = shard.first_position + row
            rows.append(" ".join(map(str, (file.tell() + tarfile.BLOCKSIZE, *stored))))
            add_member(tar, f"{position:08d}.{_extension(stored[3])}", content)
            add_member(tar, f"{position:08d}.cls", str(shard.images.labels[row]).encode())
    seal_file(path, _KIND, {"made_from": made_from, "images": rows})


def read_shards(shards: Sequence[Shard], index: ImageIndex) -> tuple[ImageIndex, Places]:
    """Return the index of the images as stored in the shards of a split, and the place of each."""
    seals = []
    for shard in shards:
        seal = read_whole_file_seal(Path(shard.path), _KIND)
        assert seal is not None, f"{shard.path} was not written"
        seals.append(seal)
    numbers, sha256, places = _read_rows(seals)
    stored = make_index(
        index.split,
        index.dataset,
        index.classes,
        index.names,
        index.labels,
        num_bytes=numbers[:, 1],
        widths=numbers[:, 2],
        heights=numbers[:, 3],
        sha256=sha256,
        flags=numbers[:, 4],
    )
    return stored, places


def list_shards(folder: Path, index: ImageIndex) -> Places:
    """Find the images of an index in the shards of a folder. Raises UserError if they are not there."""
    try:
        paths = sorted(folder.glob(f"{index.split}-*.tar"))
        seals = [read_whole_file_seal(path, _KIND) for path in paths]
        whole = [seal for seal in seals if seal is not None]
        _, sha256, places = _read_rows(whole)
        if np.array_equal(sha256, index.sha256):
            return places
        problem = f"{len(sha256):,} images in whole shards, and not the {len(index):,} of this run"
        if len(whole) < len(paths):
            problem += (
                f"; not whole: {', '.join(path.name for path, seal in zip(paths, seals, strict=True) if not seal)}"
            )
    except BrokenSeal as error:
        problem = str(error)
    raise UserError(
        f"data.shards: {folder} does not have the {index.split} images of this run ({problem}); put its shards there, "
        "name the folder that has them, or leave data.shards out to read the images' own files"
    )


def _stored(shard: Shard, row: int) -> tuple[bytes, Row]:
    """Return an image's bytes for the shard, and its row."""
    images = shard.images
    flags, width, height = int(images.flags[row]), int(images.widths[row]), int(images.heights[row])
    content = read_image(images, row)
    sha256 = hashlib.sha256(content).digest()
    if sha256 != images.sha256[row].tobytes():
        raise UserError(f"{images.name(row)}: its content has changed since it was checked; run prepare again")
    if shard.resize_px is None or min(width, height) <= shard.resize_px:
        return content, (len(content), width, height, flags, sha256.hex())
    scale = shard.resize_px / min(width, height)
    width, height = round(width * scale), round(height * scale)
    with Image.open(io.BytesIO(content)) as image:
        picture = image if image.mode in ("L", "RGB") else image.convert("RGB")
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=_QUALITY)
    content = encoded.getvalue()
    return content, (len(content), width, height, flags & _GREY, hashlib.sha256(content).hexdigest())


def _extension(flags: int) -> str:
    return next((kind for kind in ("png", "webp") if flags & (1 << FLAGS.index(kind))), "jpg")


def _check_place(shard: Shard, note: Callable[[str], None]) -> None:
    """Raise UserError if another valid shard is in this one's place; calls `note` for a damaged seal."""
    try:
        seal = read_whole_file_seal(Path(shard.path), _KIND)
    except BrokenSeal as error:
        note(f"{error}; the shard is written again")
        return
    if seal is not None and seal.about["made_from"] != shard.made_from():
        raise UserError(
            f"data.shards: {shard.path} was made from other images, or at another size, and other runs may read it; "
            "name another folder, or delete the shards in this one"
        )


def _read_rows(seals: Sequence[Seal]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], Places]:
    """Return for all images in these shards: offset, bytes, width, height and flags; SHA-256; and the places."""
    rows = [row.rsplit(" ", 1) for seal in seals for row in seal.about["images"]]
    numbers = np.array([row.split() for row, _ in rows], dtype=np.int64).reshape(-1, 5)
    sha256 = np.frombuffer(bytes.fromhex("".join(digest for _, digest in rows)), dtype=np.uint8).reshape(-1, 32)
    places = Places(
        files=tuple(seal.name for seal in seals),
        file_bytes=tuple(seal.files[seal.name].size for seal in seals),
        numbers=np.repeat(np.arange(len(seals)), [len(seal.about["images"]) for seal in seals]),
        offsets=numbers[:, 0],
        lengths=numbers[:, 1],
    )
    return numbers, sha256, places
