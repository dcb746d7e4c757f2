"""CIFAR in the forms that people have, written as the originals are, but with few images of each class."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.archive import add_member
from pipeline.data.cifar_versions import CIFAR, Cifar
from tests.data.indexing import picture

PER_CLASS = {"cifar10": {"train": 5, "val": 2}, "cifar100": {"train": 1, "val": 1}}
Split = tuple[npt.NDArray[np.uint8], list[int]]
"""Pixels, (N, 32, 32, 3), and labels."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Let data sets of PER_CLASS images pass for the whole ones."""
    for name, per_class in PER_CLASS.items():
        patch.setitem(CIFAR, name, dataclasses.replace(CIFAR[name], per_class=per_class))


def cifar_images(dataset: str) -> dict[str, Split]:
    """Pictures in an order of their own, as the originals are."""
    made, found = iter(range(1000)), {}
    for split, per_class in PER_CLASS[dataset].items():
        labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(CIFAR[dataset].classes)), per_class))
        pixels = np.stack([np.asarray(picture(32, 32, next(made))) for _ in labels])
        found[split] = (pixels, labels.tolist())
    return found


def binary_files(dataset: str, images: dict[str, Split]) -> dict[str, bytes]:
    cifar = CIFAR[dataset]
    files = {cifar.binary.meta: ("\n".join(cifar.classes) + "\n\n").encode()}
    for _, name, pixels, labels in _parts(cifar, images, cifar.binary.splits):
        coarse = [bytes([label % 20])[: cifar.label_bytes - 1] for label in labels]
        planes = pixels.transpose(0, 3, 1, 2)
        rows = zip(coarse, labels, planes, strict=True)
        files[name] = b"".join(first + bytes([label]) + plane.tobytes() for first, label, plane in rows)
    return files


def python_files(dataset: str, images: dict[str, Split]) -> dict[str, bytes]:
    """As Python 2 wrote them."""
    cifar = CIFAR[dataset]
    files = {cifar.python.meta: python2_pickle({cifar.names: list(cifar.classes)})}
    for split, name, pixels, labels in _parts(cifar, images, cifar.python.splits):
        content: dict[str, Any] = {
            "batch_label": split,
            f"{cifar.label}s": labels,
            "data": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(labels), -1),
            "filenames": [f"{number}.png" for number in range(len(labels))],
        }
        files[name] = python2_pickle(content)
    return files


class _Python2Pickler(pickle._Pickler):
    """Text and bytes are one there, with an opcode that Python 3 only reads."""

    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)
    write: Any
    memoize: Any

    def save_bytes(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    def save_text(self, text: str) -> None:
        self.save_bytes(text.encode("latin-1"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def python2_pickle(content: Any) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_archive(root: Path, name: str, folder: str, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / name, "w:gz", compresslevel=1) as tar:
        for file, content in files.items():
            add_member(tar, f"{folder}/{file}", content)
    return root / name


def write_folder(root: Path, folder: str, files: dict[str, bytes]) -> None:
    (root / folder).mkdir(parents=True)
    for file, content in files.items():
        (root / folder / file).write_bytes(content)


def write_cifar(root: Path, dataset: str) -> dict[str, Split]:
    """The binary archive; returns what is in it."""
    images, version = cifar_images(dataset), CIFAR[dataset].binary
    write_archive(root, version.archive, version.folder, binary_files(dataset, images))
    return images


def write_parquet(root: Path, dataset: str, images: dict[str, Split]) -> None:
    """As `datasets` writes them: PNGs in a struct, the classes in the metadata."""
    pyarrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    label = CIFAR[dataset].label
    features = {label: {"names": list(CIFAR[dataset].classes), "_type": "ClassLabel"}}
    root.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("val", "test")):
        pixels, labels = images[split]
        cells = [{"bytes": _png(image), "path": None} for image in pixels]
        table = pyarrow.table({"img": cells, label: labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, root / f"{name}-00000-of-00001.parquet")


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _parts(cifar: Cifar, images: dict[str, Split], splits: Any) -> Iterable[tuple[str, str, Any, list[int]]]:
    for split, names in splits.items():
        pixels, labels = images[split]
        for name, rows in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
            yield split, name, pixels[rows], [labels[row] for row in rows]
