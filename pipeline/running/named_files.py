"""Files outside the run that a recipe names: only their content counts, and it is hashed once."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of, write_json
from pipeline.store.seal import SEAL

RECORD = "inputs.json"
"""In a run directory: path, size, modification time and SHA-256 of each file that its recipes have named."""


def digest_of(path: Path, run: Path) -> str:
    """Return the SHA-256 of a file's content, or of a sealed directory that of its seal. A file on record is not read.

    Raises UserError if there is nothing at `path`.
    """
    if path.is_dir():
        path = path / SEAL
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: the recipe names this file, and it is not there") from None
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns, run)


def recorded_digest(path: Path, run: Path) -> str | None:
    """Return the digest that `run` has on record for an unchanged file, or None."""
    known = _record(run).get(str((path / SEAL if path.is_dir() else path).absolute()))
    return None if known is None else str(known[2])


def record_files(paths: Iterable[Path], run: Path) -> None:
    """Record the digests of files in `run`, for later processes."""
    files = [path / SEAL if path.is_dir() else path for path in paths]
    entries = {
        str(file.absolute()): [file.stat().st_size, file.stat().st_mtime_ns, digest_of(file, run)] for file in files
    }
    known = _record(run)
    if not entries.items() <= known.items():
        write_json(run / RECORD, known | entries)


@functools.cache
def _digest(path: Path, size: int, modified: int, run: Path) -> str:
    known = _record(run).get(str(path))
    if known is not None and known[:2] == [size, modified]:
        return str(known[2])
    return sha256_of(path)


def _record(run: Path) -> dict[str, list[int | str]]:
    try:
        record: dict[str, list[int | str]] = json.loads((run / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
