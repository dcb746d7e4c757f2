"""Files that are complete or not there: written under a temporary name, flushed, renamed; and their checksums."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

_TEMPORARY = ".tmp-"


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; after a crash the old file or the new one is there, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Like `write_bytes`, for anything that json can hold; readable, keys in the order given."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def append_json_line(path: Path, content: Any) -> None:
    """Add a line. One that a full disk or a kill tore is ended first, or the new one would be lost with it."""
    with naming_disk_errors(path), path.open("a+b") as file:
        is_torn = False
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            is_torn = file.read() != b"\n"
        file.write(b"\n" * is_torn + json.dumps(content).encode() + b"\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is flushed to disk and renamed, else removed."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with naming_disk_errors(path):
            yield temporary
            flush_file(temporary)
            os.replace(temporary, path)
            flush_directory(path.parent)
    finally:
        # A read-only file system refuses to remove even what is not there.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` when everything in it is on disk; `path` must not exist."""
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with naming_disk_errors(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                flush_file(file)
            flush_directory(temporary)
            os.rename(temporary, path)
            flush_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a read-only place into a UserError that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place = existing_parent(path)
            free = shutil.disk_usage(place).free
            raise UserError(
                f"{path}: no space left to write it ({free / 1e6:,.0f} MB free below {place}); "
                "what was complete before is unharmed; free some space and run the same command again"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
        raise


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left under temporary names; only for the holder of the directory's lock."""
    for leftover in directory.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_file(path: Path) -> None:
    """Wait until a file's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_directory(path: Path) -> None:
    """Wait until a directory's entries are on disk."""
    flush_file(path)
