"""Hugging Face's parquet files: single rows cannot be read at random, so their images are copied once.

The images of each parquet file become a WebDataset tar file in `data.shards`, `parquet-<split>-<file>.tar`, with a
seal that says what it was made from and where in it each image lies. From there they are read like any others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.archive import add_member
from pipeline.data.canonical import Row, make_tree
from pipeline.data.ilsvrc import Ilsvrc
from pipeline.data.places import Ranges
from pipeline.data.tree import SplitTree
from pipeline.data.workers import WorkerDied, is_stopping, run_in_processes
from pipeline.ground.errors import StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.store.file import naming, remove_leftovers, replacing
from pipeline.store.lock import in_turn
from pipeline.store.seal import BrokenSeal, read_whole_file_seal, remove_sealed, seal_file

_KIND = "parquet copy"
_IMAGE, _LABEL = ("image", "img"), ("label", "labels")
_BATCH = 128
_FOOTER_END = 8
"""A parquet file ends with the length of its footer and a mark."""


@dataclasses.dataclass(frozen=True)
class Copy:
    """A parquet file, and the tar file that its images go to."""

    source: str
    target: str
    split: str

    def made_from(self) -> str:
        """Return what the copy depends on: the file's size and its footer, which lists all parts and their sizes."""
        path = Path(self.source)
        with path.open("rb") as file:
            file.seek(-_FOOTER_END, io.SEEK_END)
            length = int.from_bytes(file.read(4), "little") + _FOOTER_END
            file.seek(-min(length, path.stat().st_size), io.SEEK_END)
            return hashlib.sha256(json.dumps([self.split, path.stat().st_size]).encode() + file.read()).hexdigest()


def copy_parquet(
    split: str,
    files: Sequence[Path],
    folder: Path,
    stop: StopFlag,
    progress: Callable[[int, int, float], None],
    note: Callable[[str], None],
    num_workers: int,
) -> None:
    """Copy the images of parquet files that are not copied yet; `progress` counts files.

    Raises UserError if pyarrow is not there or a file is not as Hugging Face writes it; StopRequested with whole copies
    kept; RuntimeError if a worker process died.
    """
    _require_pyarrow()
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    copies = [Copy(str(path), str(_target(folder, split, path)), split) for path in files]
    with in_turn(folder, stop, note):
        remove_leftovers(folder)
        done, begun = 0, time.monotonic()
        try:
            for _ in run_in_processes(write_copy, copies, stop, num_workers):
                done += 1
                progress(done, len(copies), done / (time.monotonic() - begun))
        except WorkerDied as error:
            paths = ", ".join(copy.source for copy in error.tasks)
            raise RuntimeError(f"a process that copies parquet files was killed at one of {paths}") from error
    if done < len(copies):
        raise StopRequested(f"stopped by {stop.reason} after {done:,} of {len(copies):,} parquet files were copied")


def write_copy(copy: Copy) -> None:
    """Write one tar file and seal it, unless it is there already."""
    path, made_from = Path(copy.target), copy.made_from()
    try:
        seal = read_whole_file_seal(path, _KIND)
    except BrokenSeal:
        seal = None
    if seal is not None:
        if seal.about["made_from"] == made_from:
            return
        raise UserError(
            f"data.shards: {path} was made from another parquet file, and other runs may read it; name another folder, "
            "or delete the copies in this one"
        )
    remove_sealed(path)
    rows = []
    images, class_names = open_rows(Path(copy.source))
    with replacing(path) as temporary, temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number, (name, label, content) in enumerate(images):
            if is_stopping():
                raise StopRequested("copy left unfinished")
            ending = Path(name).suffix.lstrip(".").lower() or "jpg"
            rows.append([name, label, file.tell() + tarfile.BLOCKSIZE, len(content), ending])
            for suffix, part in ((ending, content), ("cls", str(label).encode())):
                add_member(tar, f"{number:08d}.{suffix}", part)
    about = {"made_from": made_from, "classes": class_names, "rows": rows}
    seal_file(path, _KIND, about)


def read_copies(split: str, folder: Path, files: Sequence[Path] | None, table: Ilsvrc | None) -> SplitTree | None:
    """List the copies of these parquet files, or of all. Returns None if one is missing, or there are none."""
    paths = (
        sorted(folder.glob(f"parquet-{split}-*.tar"))
        if files is None
        else [_target(folder, split, path) for path in files]
    )
    try:
        found = [seal for path in paths if (seal := read_whole_file_seal(path, _KIND)) is not None]
    except BrokenSeal:
        return None
    if not found or (files is not None and len(found) < len(files)):
        return None
    ranges = Ranges(folder)
    rows = []
    for seal in found:
        number = ranges.add_file(folder / seal.name)
        for row, (name, label, offset, length, ending) in enumerate(seal.about["rows"]):
            rows.append(Row(name, row, label, number, offset, length, ending))
    stems = [Path(seal.name).stem.removeprefix(f"parquet-{split}-") for seal in found]
    return make_tree(split, folder, ranges, stems, rows, (), found[0].about["classes"], table, "shards")


def _require_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError("data.root: reading parquet files needs pyarrow: pip install 'senet154[parquet]'")


def _target(folder: Path, split: str, file: Path) -> Path:
    return folder / f"parquet-{split}-{file.stem}.tar"


def open_rows(path: Path, labels: Sequence[str] = _LABEL) -> tuple[Any, list[str] | None]:
    """Yield the rows of a parquet file as name, label and bytes, one at a time; and the names of its classes.

    `labels` are names that the column of labels may have. Raises UserError if the file is not as Hugging Face has it.
    """
    _require_pyarrow()
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a whole parquet file ({error}); download it again") from error
    columns = file.schema_arrow.names
    image = next((name for name in _IMAGE if name in columns), None)
    label = next((name for name in labels if name in columns), None)
    if image is None:
        raise UserError(f"{path}: must have the column image, of bytes and path (it has {', '.join(columns)})")
    return _rows(path, file, image, label), _class_names(file.schema_arrow.metadata or {}, label)


def _rows(path: Path, file: Any, image: str, label: str | None) -> Any:
    chosen = [image] if label is None else [image, label]
    for batch in file.iter_batches(batch_size=_BATCH, columns=chosen):
        for row in batch.to_pylist():
            cell = row[image]
            if not isinstance(cell, dict) or cell.get("bytes") is None:
                raise UserError(f"{path}: its images are not inside ({image} must be of bytes and path)")
            yield cell.get("path") or "", None if label is None else row[label], cell["bytes"]


def _class_names(metadata: dict[bytes, bytes], label: str | None) -> list[str] | None:
    """Hugging Face's description of the columns has them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return [str(name) for name in names] if isinstance(names, list) else None
    except (KeyError, TypeError, ValueError):
        return None
