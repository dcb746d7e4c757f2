"""CIFAR-10 and CIFAR-100 as people have them: the pixels of a split as one array, and their labels.

The archives of https://www.cs.toronto.edu/~kriz/cifar.html in both versions, binary and Python; the folders that they
unpack to, which torchvision leaves; and Hugging Face's parquet. An image's name is its number in the files' order.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.array_pickle import PickledArray, RefusedPickle, read_arrays
from pipeline.data.cifar_versions import CIFAR, Cifar, Version
from pipeline.data.parquet import open_rows
from pipeline.data.tree import name_some
from pipeline.ground.errors import UserError

SIDE_PX = 32
_PIXELS = 3 * SIDE_PX * SIDE_PX
_FILE_BYTES = 200_000_000
"""More than any file in an archive has; a larger one is not read."""
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def read_cifar(path: Path, dataset: str, split: str, parquet: Sequence[Path] = ()) -> tuple[Pixels, Labels]:
    """Read a split's pixels, (N, 32, 32, 3), and labels, from what `find_cifar` found or parquet files.

    Raises UserError if they are not the whole data set with its classes in the official order.
    """
    cifar = CIFAR[dataset]
    if parquet:
        parts = [_read_parquet(file, cifar) for file in parquet]
    else:
        is_binary = path.name in (cifar.binary.archive, cifar.binary.folder) or (path / cifar.binary.meta).is_file()
        version, read = (cifar.binary, _read_binary) if is_binary else (cifar.python, _read_python)
        files = _read_files(path, version, (*version.splits[split], version.meta))
        meta = files.pop(version.meta)
        names = (
            meta.decode("latin-1").split() if is_binary else _strings(_unpickle(f"{path}: {version.meta}", meta), cifar)
        )
        _check_names(path, names, cifar)
        parts = [read(f"{path}: {name}", content, cifar) for name, content in files.items()]
    labels = np.concatenate([labels for _, labels in parts])
    _check_counts(path, split, labels, dataset)
    return np.concatenate([pixels for pixels, _ in parts]), labels


def _read_files(path: Path, version: Version, names: Sequence[str]) -> dict[str, bytes]:
    """Return the files of these names, in their order."""
    try:
        if path.is_dir():
            found, folder = {name: (path / name).read_bytes() for name in names if (path / name).exists()}, ""
        else:
            found, folder = _read_archive(path, version, names), f"{version.folder}/"
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"data.root: {path} cannot be read to its end ({error}); download it again") from error
    if missing := [name for name in names if name not in found]:
        raise UserError(f"data.root: {path} has no {folder}{name_some(missing)}; download it again")
    return {name: found[name] for name in names}


def _read_archive(path: Path, version: Version, names: Sequence[str]) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path, "r:gz") as tar:
        while (member := tar.next()) is not None:
            name = member.name.removeprefix("./").removeprefix(f"{version.folder}/")
            if name in names and member.isreg() and member.size <= _FILE_BYTES:
                file = tar.extractfile(member)
                assert file is not None, "a regular file"
                found[name] = file.read()
    return found


def _read_binary(place: str, content: bytes, cifar: Cifar) -> tuple[Pixels, Labels]:
    num_bytes = cifar.label_bytes + _PIXELS
    if not content or len(content) % num_bytes:
        raise UserError(
            f"data.root: {place} must be records of {num_bytes:,} bytes (it has {len(content):,}); download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, num_bytes)
    return _channels_last(records[:, cifar.label_bytes :]), records[:, cifar.label_bytes - 1].astype(np.int64)


def _read_python(place: str, content: bytes, cifar: Cifar) -> tuple[Pixels, Labels]:
    found = _unpickle(place, content)
    label = f"{cifar.label}s"
    if label not in found and "coarse_labels" in found:
        raise UserError(f"data.root: {place} has CIFAR-100's 20 coarse labels alone; the classes are its {label}")
    data, labels = found.get("data"), found.get(label)
    rows = data.pixels if isinstance(data, PickledArray) else None
    is_whole = rows is not None and isinstance(labels, list) and rows.shape == (len(labels), _PIXELS)
    if rows is None or not is_whole:
        raise UserError(f"data.root: {place} must have data, a row of {_PIXELS:,} bytes for each image, and {label}")
    return _channels_last(rows), _numbers(place, labels)


def _read_parquet(file: Path, cifar: Cifar) -> tuple[Pixels, Labels]:
    rows, names = open_rows(file, (cifar.label,))
    if names is not None:
        _check_names(file, names, cifar)
    found = [(_decode(file, content), label) for _, label, content in rows]
    if odd := [image.shape for image, _ in found if image.shape != (SIDE_PX, SIDE_PX, 3)]:
        raise UserError(f"data.root: {file} must have images of 32 x 32 pixels in colour (the first other is {odd[0]})")
    pixels = np.stack([image for image, _ in found]) if found else np.empty((0, SIDE_PX, SIDE_PX, 3), np.uint8)
    return pixels, _numbers(str(file), [label for _, label in found])


def _decode(file: Path, content: bytes) -> Pixels:
    try:
        return np.asarray(Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"data.root: {file} has an image that is no whole PNG ({error}); download it again") from error


def _unpickle(place: str, content: bytes) -> dict[str, Any]:
    try:
        return read_arrays(content)
    except RefusedPickle as error:
        raise UserError(f"data.root: {place} is not as CIFAR's authors wrote it: {error}") from error


def _strings(meta: Mapping[str, Any], cifar: Cifar) -> list[str]:
    names = meta.get(cifar.names)
    if not isinstance(names, list):
        return []
    # Bytes where Python 3 has written again what Python 2 wrote.
    return [name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in names]


def _numbers(place: str, labels: Any) -> Labels:
    if not all(isinstance(label, int) and 0 <= label < 2**31 for label in labels):
        raise UserError(f"data.root: {place} has labels that are no numbers")
    return np.array(labels, dtype=np.int64)


def _channels_last(planes: Pixels) -> Pixels:
    return np.ascontiguousarray(planes.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1))


def _check_names(path: Path, names: Sequence[str], cifar: Cifar) -> None:
    if list(names) != list(cifar.classes):
        there = next((pair for pair in zip(names, cifar.classes, strict=False) if pair[0] != pair[1]), None)
        told = f"{len(names)} of them" if there is None else f"{there[0]} in the place of {there[1]}"
        raise UserError(f"data.root: {path} has other classes, or the classes in another order ({told})")


def _check_counts(path: Path, split: str, labels: Labels, dataset: str) -> None:
    cifar = CIFAR[dataset]
    num_classes, per_class = len(cifar.classes), cifar.per_class[split]
    counts = np.bincount(labels.clip(0, num_classes), minlength=num_classes)
    if counts.tolist() == [per_class] * num_classes and labels.min() >= 0:
        return
    coarse = "; these are the 20 coarse labels" if num_classes == 100 and len(np.unique(labels)) == 20 else ""
    raise UserError(
        f"data.root: {path} must have {per_class:,} {split} images of each of the {num_classes} classes of {dataset} "
        f"(it has {len(labels):,} images, {counts.min():,} to {counts.max():,} a class{coarse})"
    )
