"""Seals: small JSON files, written last, that declare a directory or file complete and record its inputs.

A directory has `seal.json` inside; a single file has `<stem>.seal.json` beside it. A seal lists every file with size
and SHA-256 and ends with a hash over itself, so that no flipped bit in it goes unnoticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.store.file import sha256_of, write_bytes

SEAL = "seal.json"
_SUFFIX = ".seal.json"
About = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


class BrokenSeal(Exception):
    """A sealed file or directory differs from its seal; the message names the file and the difference."""


@dataclasses.dataclass(frozen=True)
class SealedFile:
    """Size and SHA-256 of a file when it was sealed."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Seal:
    """The record of a complete directory or file, and of its inputs."""

    kind: str
    """stage, checkpoint, scores, part, chunk or shard."""
    name: str
    """Name of the sealed directory or file."""
    about: Mapping[str, Any]
    """Plain values: step, digests of the images, identity, metrics."""
    files: Mapping[str, SealedFile]
    """By path relative to the seal's folder."""
    sha256: str = ""
    """Hash over all other fields."""


def seal_directory(directory: Path, kind: str, about: About, files: Iterable[str], name: str | None = None) -> Seal:
    """Declare `directory` complete; nothing in it may change afterwards.

    `files` are relative to it. `name` is the final name of a temporary directory. A function `about` is called after
    the files are hashed, so that it can report how long that took.
    """
    return _write(directory / SEAL, kind, name or directory.name, about, directory, files)


def seal_file(path: Path, kind: str, about: Mapping[str, Any]) -> Seal:
    """Declare a single file complete."""
    return _write(beside(path), kind, path.name, about, path.parent, [path.name])


def beside(path: Path) -> Path:
    """Return the path of a single file's seal."""
    return path.with_name(path.stem + _SUFFIX)


def is_sealed(path: Path) -> bool:
    """Return whether a directory or a single file has a seal, valid or broken."""
    return _place(path).exists()


def read_seal(path: Path, kind: str) -> Seal | None:
    """Read the seal of a directory or a single file and check it, but not its files.

    Returns None if there is none. Raises BrokenSeal if it is damaged, of another kind, or of another name.
    """
    place = _place(path)
    try:
        content = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fields = json.loads(content)
        files = {name: SealedFile(**file) for name, file in fields["files"].items()}
        seal = Seal(**{**fields, "files": files})
        is_whole = _digest(seal) == seal.sha256
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenSeal(f"{place}: not a readable seal ({error})") from error
    if not is_whole:
        raise BrokenSeal(f"{place}: damaged (its own SHA-256 does not fit)")
    if seal.kind != kind:
        raise BrokenSeal(f"{place}: the seal of a {seal.kind}, not of a {kind}")
    if seal.name != path.name:
        raise BrokenSeal(f"{place}: the seal of {seal.name}, not of {path.name}")
    return seal


def read_whole_file_seal(path: Path, kind: str) -> Seal | None:
    """Read the seal of a single file. Returns None if there is none, or the file has another size.

    The content is not compared. Raises BrokenSeal as `read_seal` does.
    """
    seal = read_seal(path, kind)
    try:
        return seal if seal is not None and path.stat().st_size == seal.files[path.name].size else None
    except FileNotFoundError:
        return None


def verify_files(path: Path, seal: Seal) -> None:
    """Check size and SHA-256 of every sealed file. Raises BrokenSeal naming each that differs.

    A file is hashed once a process: its SHA-256 is cached while size and modification time stay.
    """
    folder = _place(path).parent
    problems = []
    for name, expected in seal.files.items():
        file = folder / name
        try:
            status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{file}: missing")
            continue
        if status.st_size != expected.size:
            problems.append(f"{file}: {status.st_size:,} bytes, {expected.size:,} when it was written")
            continue
        known = _VERIFIED.get(file)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            known = _VERIFIED[file] = (status.st_size, status.st_mtime_ns, sha256_of(file))
        if known[2] != expected.sha256:
            problems.append(f"{file}: its content has changed since it was written (SHA-256 differs)")
    if problems:
        raise BrokenSeal("\n".join(problems))


def remove_sealed(path: Path) -> None:
    """Remove a sealed directory or file, the seal first, so that a half-removed one never counts as complete."""
    _place(path).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_VERIFIED: dict[Path, tuple[int, int, str]] = {}
"""Size, modification time and SHA-256 of the files that this process has verified."""


def _place(path: Path) -> Path:
    return path / SEAL if path.is_dir() or not path.suffix else beside(path)


def _write(place: Path, kind: str, name: str, about: About, folder: Path, names: Iterable[str]) -> Seal:
    files = {each: SealedFile((folder / each).stat().st_size, sha256_of(folder / each)) for each in sorted(set(names))}
    seal = Seal(kind, name, about() if callable(about) else about, files)
    seal = dataclasses.replace(seal, sha256=_digest(seal))
    text = json.dumps(dataclasses.asdict(seal), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(place, (text + "\n").encode("utf-8", "surrogateescape"))
    return seal


def _digest(seal: Seal) -> str:
    fields = dataclasses.asdict(dataclasses.replace(seal, sha256=""))
    # Values that change in a round trip through JSON (a tuple becomes a list) must have the same digest.
    content = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
