"""Score files: the network's answer to every image, so that fusing plans or networks needs no forward pass.

`scores-<plan>.npy` is an (N, K) float16 array of log-probabilities, row i for the image at position i of the split's
index (for ImageNet: in the order of the file names) and column k for the class of label k. They are computed in float32
and rounded once: the logarithm of the mean, over the plan's crops, of the softmax probabilities, or the log-softmax of
the mean logits, as the plan says. The seal beside the file records weights, images and classes in order. Errors are
counted from the file, so that file and report always agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Averaging
from pipeline.config.evaluation import EvaluatedSplit
from pipeline.data.index import ImageClass
from pipeline.evaluation.margins import blocks
from pipeline.evaluation.parts import PartFolder
from pipeline.ground.errors import UserError
from pipeline.store.file import link_or_copy, replacing
from pipeline.store.seal import BrokenSeal, beside, read_seal, remove_sealed, seal_file, verify_files

KIND = "scores"
_ROWS_AT_ONCE = 4096
_SEALS = "scores-*.seal.json"


@dataclasses.dataclass(frozen=True)
class ScoreDescription:
    """The description of a score file. Files with equal `images_sha256` and `classes_sha256` can be fused row by
    row."""

    plan: str
    """The crop plan's name."""
    averaging: Averaging
    """Probabilities or logits, averaged over the plan's crops."""
    split: EvaluatedSplit
    weights: str
    """Path of the weight file, as given."""
    weights_sha256: str
    images: int
    images_sha256: str
    """Hash of the images' names in the order of the rows, see `digest_images`."""
    classes: int
    classes_sha256: str
    """Hash of the classes' folder names in the order of the columns, see `digest_classes`."""
    index_sha256: str
    """Digest of the index, and so of the images' content and labels."""
    key: str
    """Hash of everything that the scores depend on."""
    seconds: float
    """Wall time of the scoring, over all attempts of the stage."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """A verified score file."""

    path: Path
    array: npt.NDArray[np.float16]
    """(N, K) log-probabilities, memory-mapped: rows are read from disk when they are used."""
    description: ScoreDescription
    sha256: str
    """SHA-256 of the file."""


def read_scores(path: Path) -> Scores:
    """Open the scores at `path` (`.../scores-<plan>.npy`).

    Raises UserError if file or seal is missing or damaged, if the array is not the one that the seal describes, or if
    its numbers are no log-probabilities.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such score file")
    try:
        scores = open_scores(path)
    except BrokenSeal as problem:
        raise UserError(f"{problem}; evaluate again") from problem
    if scores is None:
        told = f"no such file; it must describe {path.name} (version 0.1 wrote none); evaluate again"
        raise UserError(f"{beside(path)}: {told}")
    return scores


def open_scores(path: Path, key: str | None = None) -> Scores | None:
    """Open the scores at `path` and verify them.

    Returns None if they are not sealed, or have another key than the given one. Raises BrokenSeal if they are damaged
    or no log-probabilities.
    """
    seal = read_seal(path, KIND)
    if seal is None or (key is not None and seal.about.get("key") != key):
        return None
    verify_files(path, seal)
    try:
        description, sha256 = ScoreDescription(**seal.about), seal.files[path.name].sha256
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenSeal(f"{path}: not a readable score file ({error})") from error
    shape = (description.images, description.classes)
    if array.dtype != np.float16 or array.shape != shape:
        raise BrokenSeal(f"{path}: must be {shape} float16, as its seal says (it is {array.shape} {array.dtype})")
    row = find_invalid_row(array)
    if row is not None:
        raise BrokenSeal(f"{path}: must hold log-probabilities, finite or -inf (row {row:,} has NaN or infinity)")
    return Scores(path, array, description, sha256)


def find_invalid_row(scores: npt.NDArray[np.float16]) -> int | None:
    """Return the first row with a NaN, an infinity, or -inf alone; None if all are log-probabilities.

    A single -inf is legal: a class whose logarithm is too low for float16.
    """
    for rows in blocks(len(scores), _ROWS_AT_ONCE):
        invalid = np.flatnonzero(~np.isfinite(scores[rows].max(axis=1)))
        if len(invalid):
            return int(rows.start + invalid[0])
    return None


def short_names(names: Sequence[str]) -> Sequence[str]:
    """Return the names of images without their folders, or unchanged if names would then repeat.

    So the contest's images have the same names in one flat folder and in a folder for each class.
    """
    short = [name.rpartition("/")[2] for name in names]
    return short if len(set(short)) == len(short) else names


def digest_images(names: Sequence[str]) -> str:
    """Return the SHA-256 of the images' short names, joined by newlines."""
    return _digest_lines(short_names(names))


def digest_classes(classes: Iterable[ImageClass]) -> str:
    """Return the SHA-256 of the classes' folder names in label order, joined by newlines."""
    return _digest_lines(image_class.folder for image_class in classes)


def _digest_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


class ScoreFile:
    """The score file of one plan in a stage's directory."""

    def __init__(self, directory: Path, plan: str) -> None:
        self.path = directory / f"scores-{plan}.npy"

    @property
    def names(self) -> list[str]:
        """Names of the file and of its seal."""
        return [self.path.name, beside(self.path).name]

    def assemble(self, parts: PartFolder, description: ScoreDescription) -> Scores:
        """Join all parts, and add up their seconds; only one of them is in memory at a time.

        Raises UserError if a part broke since it was written.
        """
        seconds = 0.0

        def read_parts() -> Iterator[npt.NDArray[np.float16]]:
            nonlocal seconds
            for number in range(len(parts)):
                try:
                    part = parts.read(number)
                except BrokenSeal as problem:
                    raise UserError(f"{problem}; run the same command again to redo it") from None
                seconds += part.seconds
                yield part.scores

        self._write_array(description, read_parts())
        return self._seal(dataclasses.replace(description, seconds=round(seconds, 3)))

    def write(self, description: ScoreDescription, rows: Iterable[npt.NDArray[np.float16]]) -> Scores:
        """Write scores given in blocks of rows, and seal them."""
        self._write_array(description, rows)
        return self._seal(description)

    def take_over(self, description: ScoreDescription, folder: Path) -> Scores | None:
        """Link or copy a file of the same key from `folder`, under any plan's name, or return None."""
        for seal in sorted(folder.glob(_SEALS)):
            path = seal.with_name(seal.name.removesuffix(".seal.json") + ".npy")
            found = None
            with contextlib.suppress(BrokenSeal, OSError):  # whatever is wrong there, they can be computed here
                found = open_scores(path, description.key)
            if found is not None:
                remove_sealed(self.path)
                link_or_copy(path, self.path)
                return self._seal(dataclasses.replace(description, seconds=found.description.seconds))
        return None

    def _write_array(self, description: ScoreDescription, rows: Iterable[npt.NDArray[np.float16]]) -> None:
        remove_sealed(self.path)
        shape = (description.images, description.classes)
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in rows:
                file.write(block.tobytes())

    def _seal(self, description: ScoreDescription) -> Scores:
        seal = seal_file(self.path, KIND, dataclasses.asdict(description))
        array = np.lib.format.open_memmap(self.path, mode="r")
        return Scores(self.path, array, description, seal.files[self.path.name].sha256)
