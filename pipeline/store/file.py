"""Files that are complete or absent: written to a temporary name, flushed, renamed.

An OSError raised here names the path that failed; `explain` turns it into a sentence for a person.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TEMPORARY = ".tmp-"
_LIMITS = {
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a limit on the size of files (ulimit -f, or the file system's own) is reached",
}
_REFUSALS = (errno.EROFS, errno.EACCES, errno.EPERM)
_UNUSABLE = {
    errno.ENAMETOOLONG: "the path is too long",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ESTALE: "the file server no longer knows this file",
}


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; after a crash the old file or the new one is there, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write any JSON value as `write_bytes` does; readable, with keys in the order given."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it is flushed to disk and renamed, else removed."""
    temporary = _temporary(path)
    try:
        with naming(path):
            yield temporary
            flush_file(temporary)
            os.replace(temporary, path)
            flush_directory(path.parent)
    finally:
        # A read-only file system refuses to remove even missing files.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` once its content is on disk; `path` must not exist."""
    temporary = _temporary(path)
    try:
        with naming(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                flush_file(file)
            flush_directory(temporary)
            os.rename(temporary, path)
            flush_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Hard-link `source` to `path`, or copy it if the two file systems differ."""
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files left by killed processes; only for the holder of the directory's lock."""
    for leftover in directory.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
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


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file, as that of a `write`; a temporary name becomes the final one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            given = path if error.filename is None else error.filename
            error.filename, error.filename2 = re.sub(rf"{re.escape(_TEMPORARY)}\d+-", "", os.fsdecode(given)), None
        raise


def explain(error: OSError) -> str | None:
    """Return one sentence about an error of the disk: the path, the failure and the remedy.

    Returns None for errors that do not concern disk space, limits, rights or paths, or that name no file: those keep
    their traceback.
    """
    if error.filename is None or error.errno is None:
        return None
    path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
    unharmed = "what was complete before is unharmed"
    if error.errno == errno.ENOSPC:
        place = existing_parent(Path(path))
        free = shutil.disk_usage(place).free
        return (
            f"{path}: no space left to write it ({free / 1e6:,.0f} MB free below {place}; a file system can also be "
            f"out of inodes); {unharmed}; free some space and run the same command again"
        )
    if error.errno in _LIMITS:
        return f"{path}: {_LIMITS[error.errno]}; {unharmed}; raise it or free some, and run the same command again"
    if error.errno in _REFUSALS:
        return f"{path}: cannot be written or read ({error.strerror}); choose another place, or mend its permissions"
    if error.errno in _UNUSABLE:
        return f"{path}: {_UNUSABLE[error.errno]} ({error.strerror}); choose another path"
    return None


def existing_parent(path: Path) -> Path:
    """Return the nearest existing folder above `path`."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
