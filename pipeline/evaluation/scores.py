"""Score files: what the network said of every image, so that fusing plans or networks later needs no forward pass.

`scores-<plan>.npy` is an (N, K) float16 array of log-probabilities, row i for the image at position i of the split's
index (for ImageNet: in the order of the file names) and column k for the class of label k, computed in float32 and
rounded once: the logarithm of the mean, over the plan's crops, of the softmax probabilities, or the log-softmax of the
mean logits, as the plan says. `scores-<plan>.json` beside it says what it was made from, of which images and classes in
which order, and its checksum. Errors are counted from the file, not from what was rounded into it, so that the file and
the report always agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Averaging
from pipeline.config.evaluation import EvaluatedSplit
from pipeline.data.index import ImageClass, ImageIndex
from pipeline.evaluation.parts import BrokenPart, PartFolder
from pipeline.ground.errors import UserError
from pipeline.store.file import replacing, sha256_of, write_json


@dataclasses.dataclass(frozen=True)
class ScoreDescription:
    """What a score file holds. Files with equal `images_sha256` and `classes_sha256` can be fused row by row."""

    plan: str
    """The crop plan's name."""
    averaging: Averaging
    """What was averaged over the plan's crops."""
    split: EvaluatedSplit
    weights: str
    """Path of the weight file, as it was given."""
    weights_sha256: str
    images: int
    images_sha256: str
    """Of the images' names in the order of the rows, see `digest_images`."""
    classes: int
    classes_sha256: str
    """Of the classes' folder names in the order of the columns, see `digest_classes`."""
    made_from: dict[str, Any]
    """Everything that the scores depend on: weights, crops, images, network, preprocessing and arithmetic."""
    seconds: float
    """Wall time of the scoring, over all attempts of the stage."""
    sha256: str
    """Of the .npy file."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """A score file that is whole."""

    path: Path
    array: npt.NDArray[np.float16]
    """(N, K) log-probabilities, memory-mapped: rows are read from disk as they are looked at."""
    description: ScoreDescription


def read_scores(path: Path) -> Scores:
    """The scores at `path` (`.../scores-<plan>.npy`), described by the `.json` beside it.

    UserError where either is missing, the description cannot be read, or the file is not the one it describes.
    """
    beside = path.with_suffix(".json")
    for file, what in ((path, "no such score file"), (beside, f"no such file; it must describe {path.name}")):
        if not file.is_file():
            raise UserError(f"{file}: {what}")
    try:
        description = ScoreDescription(**json.loads(beside.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{beside}: not a readable description of scores ({error}); evaluate again") from error
    try:
        array: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: cut short, or not a score file ({error}); evaluate again") from error
    if sha256_of(path) != description.sha256:
        raise UserError(f"{path}: not the file that {beside.name} describes (SHA-256 differs); evaluate again")
    return Scores(path, array, description)


def image_names(index: ImageIndex) -> list[str]:
    """The images' names in index order: file names, or paths below the split's folder where file names repeat.

    So the contest's images are named alike whether their folder is flat or has a folder for each class.
    """
    names = [path.rpartition("/")[2] for path in index.paths]
    return names if len(set(names)) == len(names) else list(index.paths)


def digest_images(names: Iterable[str]) -> str:
    """SHA-256 of the images' names (see `image_names`), joined by newlines."""
    return _digest_lines(names)


def digest_classes(classes: Iterable[ImageClass]) -> str:
    """SHA-256 of the classes' folder names in label order, joined by newlines."""
    return _digest_lines(image_class.folder for image_class in classes)


def _digest_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


class ScoreFile:
    """The score file of one plan in a stage's directory."""

    def __init__(self, directory: Path, plan: str) -> None:
        self.path = directory / f"scores-{plan}.npy"
        self.description_path = directory / f"scores-{plan}.json"

    def describe(self, made_from: dict[str, Any]) -> ScoreDescription | None:
        """The description; None unless the file is there, whole, and made from exactly this."""
        try:
            description = ScoreDescription(**json.loads(self.description_path.read_bytes()))
            is_ours = description.made_from == made_from and description.sha256 == sha256_of(self.path)
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return description if is_ours else None

    def assemble(self, parts: PartFolder, draft: ScoreDescription) -> ScoreDescription:
        """Put all parts into one file and describe it; at no time is more than one part in memory.

        `draft` is the description but for seconds and checksum.
        """
        seconds = 0.0

        def blocks() -> Iterator[npt.NDArray[np.float16]]:
            nonlocal seconds
            for number in range(len(parts)):
                try:
                    part = parts.read(number)
                except BrokenPart as problem:
                    raise UserError(f"{problem} since it was written; run the same command again to redo it") from None
                seconds += part.seconds
                yield part.scores

        self._write_array(parts.shape, blocks())
        return self._describe(draft, round(seconds, 3), sha256_of(self.path))

    def write(self, draft: ScoreDescription, blocks: Iterable[npt.NDArray[np.float16]]) -> ScoreDescription:
        """Write scores that come in blocks of rows, and describe them; `draft` is the description but for the sum."""
        self._write_array((draft.images, draft.classes), blocks)
        return self._describe(draft, draft.seconds, sha256_of(self.path))

    def take_over(self, draft: ScoreDescription, folders: Iterable[Path]) -> Path | None:
        """Take the scores from a file in one of `folders` that was made from the same, whatever its plan is called.

        The file is shared (a hard link) where the disk can do that, else copied. Returns the file that was taken, or
        None where there is none. `draft` as in `assemble`.
        """
        for folder in folders:
            for beside in sorted(folder.glob("scores-*.json")):
                other = ScoreFile(folder, beside.name.removeprefix("scores-").removesuffix(".json"))
                found = other.describe(draft.made_from)
                if found is None:
                    continue
                with self._replaced() as temporary:
                    try:
                        temporary.hardlink_to(other.path)
                    except OSError:
                        shutil.copyfile(other.path, temporary)
                self._describe(draft, found.seconds, found.sha256)
                return other.path
        return None

    def open(self) -> npt.NDArray[np.float16]:
        """The scores, memory-mapped: rows are read from disk as they are looked at."""
        scores: npt.NDArray[np.float16] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return scores

    def _write_array(self, shape: tuple[int, int], blocks: Iterable[npt.NDArray[np.float16]]) -> None:
        with self._replaced() as temporary, temporary.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(block.tobytes())

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[Path]:
        # The description goes first and comes last: as long as it is not there, the file does not count.
        self.description_path.unlink(missing_ok=True)
        with replacing(self.path) as temporary:
            yield temporary

    def _describe(self, draft: ScoreDescription, seconds: float, sha256: str) -> ScoreDescription:
        description = dataclasses.replace(draft, seconds=seconds, sha256=sha256)
        write_json(self.description_path, dataclasses.asdict(description))
        return description
