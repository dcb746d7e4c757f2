"""Images inside tar files, read in place: the downloads of ImageNet, and tar files of class folders.

A tar file's members lie in it uncompressed and in one piece each, so an image is an offset and a length. Of a tar file
of tar files, as ILSVRC2012_img_train.tar is one, each inner file is a class.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from pipeline.data.findings import Finding
from pipeline.data.places import Ranges
from pipeline.data.tree import (
    MAGIC_BYTES,
    SplitTree,
    begins_like_image,
    class_order,
    has_image_ending,
    ignored,
    is_dropping,
    join_path,
)
from pipeline.ground.errors import UserError


def read_tar(split: str, path: Path, root: Path, *, is_flat: bool) -> SplitTree:
    """List a tar file: of class folders, of one tar file for each class, or flat.

    `is_flat`: a single folder in it is no class. Raises UserError if it is not a whole tar file, or has no images.
    """
    found = _Found(split, root)
    number = found.ranges.add_file(path)
    with path.open("rb") as file:
        for member in members(path, file):
            if member.name.endswith(".tar"):
                inner = members(path, file, member.offset_data, member.size)
                found.add_class(Path(member.name).stem, inner, file, number)
            else:
                parts = [part for part in member.name.split("/") if part != "."]
                found.add(parts[-2] if len(parts) > 1 else "", parts[-1], member, file, number)
    return found.tree(path, is_flat)


def read_class_tars(split: str, folder: Path, files: tuple[Path, ...], root: Path) -> SplitTree:
    """List a folder with a tar file for each class, as unpacking ILSVRC2012_img_train.tar leaves it."""
    found = _Found(split, root)
    for path in files:
        with path.open("rb") as file:
            found.add_class(path.stem, members(path, file), file, found.ranges.add_file(path))
    return found.tree(folder, is_flat=False)


def members(path: Path, file: IO[bytes], start: int = 0, length: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar file, which is `file` or a range of it; `offset_data` says where in `file` each lies.

    Raises UserError if it is no tar file, is compressed, damaged, or ends too early.
    """
    end = path.stat().st_size if length is None else start + length
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # a million of them would fill the memory
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError("unexpected end of data")
                if member.isreg() and not member.issparse():
                    yield member
            # tarfile takes both for the end: a header that is none, and a file that was cut between two members.
            file.seek(tar.offset)
            mark = file.read(min(tarfile.BLOCKSIZE, max(0, end - tar.offset)))
            if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
                raise tarfile.ReadError(f"no end mark at byte {tar.offset:,}")
    except tarfile.TarError as error:
        raise UserError(f"{path}: not a whole, uncompressed tar file ({error}); download or make it again") from error


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar file, without a time, an owner or other facts that differ from machine to machine."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class _Found:
    """What has been found so far."""

    def __init__(self, split: str, root: Path) -> None:
        self.ranges = Ranges(root)
        self._split = split
        self._folders: dict[str, dict[str, None]] = {}
        self._findings: list[Finding] = []

    def add_class(self, folder: str, images: Iterable[tarfile.TarInfo], file: IO[bytes], number: int) -> None:
        """Add the members of a tar file that, in whatever folders, are of one class."""
        self._folders.setdefault(folder, {})
        for member in images:
            self.add(folder, member.name.rpartition("/")[2], member, file, number)

    def add(self, folder: str, name: str, member: tarfile.TarInfo, file: IO[bytes], number: int) -> None:
        path = join_path(folder, name)
        if is_dropping(name) or is_dropping(folder):
            self._findings.append(ignored(self._split, path, "hidden"))
        elif has_image_ending(name) or _begins_like_image(member, file):
            self._folders.setdefault(folder, {})[name] = None
            self.ranges.add(path, number, member.offset_data, member.size)
        else:
            self._findings.append(ignored(self._split, path, "no image"))

    def tree(self, place: Path, is_flat: bool) -> SplitTree:
        folders = self._folders
        if not any(folders.values()):
            raise UserError(f"data.{self._split}: no images in {place}")
        if is_flat and len(folders) == 1:
            ((folder, names),) = folders.items()
            self.ranges.rename(lambda path: path.removeprefix(f"{folder}/"))
            return SplitTree(self._split, place, {"": tuple(sorted(names))}, tuple(self._findings), "tar", self.ranges)
        if strays := folders.pop("", None):
            self._findings += [ignored(self._split, name, "not in a class folder") for name in strays]
        if not folders:
            raise UserError(f"data.{self._split}: {place} must hold one folder per class (it holds files alone)")
        contents = {folder: tuple(sorted(folders[folder])) for folder in class_order(folders)}
        return SplitTree(self._split, place, contents, tuple(self._findings), "tar", self.ranges)


def _begins_like_image(member: tarfile.TarInfo, file: IO[bytes]) -> bool:
    file.seek(member.offset_data)
    return begins_like_image(file.read(min(MAGIC_BYTES, member.size)))
