"""The published versions of CIFAR-10 and CIFAR-100: their archives, files, classes and counts.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Version:
    """One of the published versions."""

    archive: str
    md5: str
    folder: str
    """The folder in the archive."""
    splits: Mapping[str, tuple[str, ...]]
    meta: str
    """The file with the names of the classes."""


@dataclasses.dataclass(frozen=True)
class Cifar:
    """A data set: its classes in label order, the images of each, and where its versions keep labels."""

    classes: tuple[str, ...]
    per_class: Mapping[str, int]
    """Images of each class by split."""
    binary: Version
    python: Version
    label_bytes: int
    """Bytes before the pixels in the binary version, the last of which is the label."""
    label: str
    """Name of the label in parquet; the Python version has its plural."""
    names: str
    """Name of the classes' names in the Python version."""
    hub_folder: str

    @property
    def forms(self) -> tuple[str, ...]:
        """Names that are recognised."""
        versions = (self.binary, self.python)
        return (*(version.archive for version in versions), *(f"{version.folder}/" for version in versions))


_TEN = "airplane automobile bird cat deer dog frog horse ship truck"
_HUNDRED = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm"""
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR = {
    "cifar10": Cifar(
        tuple(_TEN.split()),
        {"train": 5000, "val": 1000},
        Version(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin",
            {"train": tuple(f"{name}.bin" for name in _BATCHES), "val": ("test_batch.bin",)},
            "batches.meta.txt",
        ),
        Version(
            "cifar-10-python.tar.gz",
            "c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
            {"train": _BATCHES, "val": ("test_batch",)},
            "batches.meta",
        ),
        label_bytes=1,
        label="label",
        names="label_names",
        hub_folder="plain_text",
    ),
    "cifar100": Cifar(
        tuple(_HUNDRED.split()),
        {"train": 500, "val": 100},
        Version(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary",
            {"train": ("train.bin",), "val": ("test.bin",)},
            "fine_label_names.txt",
        ),
        Version(
            "cifar-100-python.tar.gz",
            "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-python",
            {"train": ("train",), "val": ("test",)},
            "meta",
        ),
        label_bytes=2,
        label="fine_label",
        names="fine_label_names",
        hub_folder="cifar100",
    ),
}


def find_cifar(root: Path, dataset: str) -> Path | None:
    """Return the archive or folder with the images at a root, which may be that folder. Returns None without one."""
    cifar = CIFAR[dataset]
    for version in (cifar.binary, cifar.python):
        if (root / version.meta).is_file():
            return root
        for path in (root / version.archive, root / version.folder):
            if path.exists():
                return path
    return None


def describe_checksum(path: Path, dataset: str) -> str:
    """Say whether an archive is the published one, by its MD5."""
    cifar = CIFAR[dataset]
    md5 = {version.archive: version.md5 for version in (cifar.binary, cifar.python)}.get(path.name)
    if md5 is None:
        return "no archive, so not compared with the published MD5"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    return "the published archive (MD5)" if found == md5 else f"another archive than the published one (MD5 {found})"
