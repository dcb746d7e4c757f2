"""Scores while they are being computed: part files, each complete or not there, that a later attempt or rank goes on from.

The index is cut into parts of a fixed number of images, whatever the number of processes, so which images share a batch
never depends on who computes them: on the CPU scores are bit-identical at any world size, interrupted or not.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.store.file import naming, write_bytes

_DIGEST_BYTES = hashlib.sha256().digest_size


class BrokenPart(Exception):
    """A part file that cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The scores of some images that follow each other in the index."""

    scores: npt.NDArray[np.float16]
    """(images of the part, K) log-probabilities."""
    seconds: float
    """Wall time it took, divided by the number of processes that worked side by side."""


class PartFolder:
    """The parts of one score file. A file is a line of JSON, the scores, and the SHA-256 of both."""

    def __init__(
        self, folder: Path, made_from: dict[str, Any], num_images: int, num_classes: int, images_per_part: int
    ) -> None:
        """`made_from` is everything that the scores depend on: a part made from anything else is not taken."""
        self._folder = folder
        self._made_from = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        self.shape = (num_images, num_classes)
        """Of all parts together."""
        self._images_per_part = images_per_part

    def __len__(self) -> int:
        return -(-self.shape[0] // self._images_per_part)

    def positions(self, number: int) -> npt.NDArray[np.int64]:
        """The images of part `number`, as rows of the index."""
        start = number * self._images_per_part
        return np.arange(start, min(start + self._images_per_part, self.shape[0]), dtype=np.int64)

    def survey(self) -> tuple[list[int], list[str]]:
        """Numbers of the parts that are still to be made, and why each that is there was not good enough.

        Makes the folder, and reads every part in it. For the main rank, before any rank writes.
        """
        with naming(self._folder):
            self._folder.mkdir(exist_ok=True)
        present = self._present()
        pending, problems = [], []
        for number in range(len(self)):
            if number not in present:
                pending.append(number)
                continue
            try:
                self.read(number)
            except BrokenPart as problem:
                pending.append(number)
                problems.append(str(problem))
        return pending, problems

    def take_over(self, folders: Iterable[Path]) -> None:
        """Take the parts that are not here yet from other folders, as far as they were made from the same.

        For the main rank, before `survey`.
        """
        with naming(self._folder):
            self._folder.mkdir(exist_ok=True)
        for folder in folders:
            other = copy.copy(self)
            other._folder = folder
            for number in sorted(other._present() - self._present()):
                with contextlib.suppress(BrokenPart, FileNotFoundError):
                    self.write(number, other.read(number))

    def write(self, number: int, part: Part) -> None:
        """Save a part."""
        assert part.scores.dtype == np.float16
        assert part.scores.shape == (len(self.positions(number)), self.shape[1])
        header = {"made_from": self._made_from, "number": number, "seconds": part.seconds}
        content = json.dumps(header).encode() + b"\n" + part.scores.tobytes()
        write_bytes(self._path(number), content + hashlib.sha256(content).digest())

    def read(self, number: int) -> Part:
        """A part as it was written. BrokenPart where it was damaged, or was made from other weights or settings."""
        path = self._path(number)
        content = path.read_bytes()
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise BrokenPart(f"{path}: damaged (its checksum does not fit)")
        header, _, scores = content.partition(b"\n")
        fields = json.loads(header)
        if (fields["made_from"], fields["number"]) != (self._made_from, number):
            raise BrokenPart(f"{path}: made from other weights, images or settings")
        array = np.frombuffer(scores, dtype=np.float16).reshape(-1, self.shape[1])
        return Part(array, fields["seconds"])

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _present(self) -> set[int]:
        """Numbers of the parts that there are files of.

        By listing: asking for a file that is not there yet makes some network file systems deny it for a while after
        another machine has written it.
        """
        if not self._folder.is_dir():
            return set()
        names = {path.name for path in self._folder.iterdir()}
        return {number for number in range(len(self)) if self._path(number).name in names}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.part"
