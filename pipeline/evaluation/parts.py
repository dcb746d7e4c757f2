"""Unfinished scores: sealed files of some images each, from which a later attempt or another rank resumes.

The index is split into parts of a fixed number of images at any world size, so the images of a batch never depend on
the rank that computes them: on the CPU scores are bit-identical at any world size, interrupted or not.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.store.file import naming, replacing
from pipeline.store.seal import BrokenSeal, beside, read_seal, seal_file, verify_files

KIND = "part"


@dataclasses.dataclass(frozen=True)
class Part:
    """The scores of consecutive images of the index."""

    scores: npt.NDArray[np.float16]
    """(images of the part, K) log-probabilities."""
    seconds: float
    """Wall time, divided by the number of ranks that worked at the same time."""


class PartFolder:
    """The parts of one score file."""

    def __init__(self, folder: Path, key: str, num_images: int, num_classes: int, images_per_part: int) -> None:
        """Use the parts of `key`, which stands for everything that the scores depend on; others are ignored."""
        self._folder = folder
        self._key = key
        self._shape = (num_images, num_classes)
        self._images_per_part = images_per_part

    def __len__(self) -> int:
        return -(-self._shape[0] // self._images_per_part)

    def positions(self, number: int) -> npt.NDArray[np.int64]:
        """Return the images of part `number`, as rows of the index."""
        start = number * self._images_per_part
        return np.arange(start, min(start + self._images_per_part, self._shape[0]), dtype=np.int64)

    def survey(self, others: Iterable[Path] = ()) -> tuple[list[int], list[str]]:
        """Return the numbers of the missing parts, and the reason for each unusable one.

        Makes the folder, copies missing parts of the same key from other folders, and reads every part. For the main
        rank, before any rank writes.
        """
        with naming(self._folder):
            self._folder.mkdir(exist_ok=True)
        for folder in others:
            for number, part in self._missing_in(folder):
                self.write(number, part)
        sealed, problems = self._sealed(), []
        pending = set(range(len(self))) - sealed
        for number in sorted(sealed):
            try:
                self.read(number)
            except BrokenSeal as problem:
                pending.add(number)
                problems.append(str(problem))
        return sorted(pending), problems

    def write(self, number: int, part: Part) -> None:
        """Save a part."""
        assert part.scores.dtype == np.float16
        assert part.scores.shape == (len(self.positions(number)), self._shape[1])
        path = self._path(number)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, part.scores, allow_pickle=False)
        seal_file(path, KIND, {"key": self._key, "seconds": part.seconds})

    def read(self, number: int) -> Part:
        """Return a sealed part. Raises BrokenSeal if it is damaged, or was made from other weights or settings."""
        path = self._path(number)
        seal = read_seal(path, KIND)
        if seal is None or seal.about.get("key") != self._key:
            raise BrokenSeal(f"{path}: made from other weights, images or settings")
        verify_files(path, seal)
        scores = np.load(path, allow_pickle=False)
        shape = (len(self.positions(number)), self._shape[1])
        if scores.shape != shape:
            raise BrokenSeal(f"{path}: must have the shape {shape} (it has {scores.shape})")
        return Part(scores, seal.about["seconds"])

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _missing_in(self, folder: Path) -> Iterator[tuple[int, Part]]:
        """Yield the parts of the same key that another folder has and this one lacks; unreadable ones are skipped."""
        other = copy.copy(self)
        other._folder = folder
        with contextlib.suppress(OSError):
            for number in sorted(other._sealed() - self._sealed()):
                with contextlib.suppress(BrokenSeal, OSError):
                    yield number, other.read(number)

    def _sealed(self) -> set[int]:
        """Return the numbers of the parts that have a seal.

        By listing: if a file is opened before another machine has written it, some network file systems report it
        missing for a while afterwards.
        """
        if not self._folder.is_dir():
            return set()
        names = {path.name for path in self._folder.iterdir()}
        return {number for number in range(len(self)) if beside(self._path(number)).name in names}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.npy"
