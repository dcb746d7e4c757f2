"""Score files: what the network said of every image, so that fusing plans or networks later needs no forward pass.

`scores-<plan>.npy` is an (N, K) float16 array of log-probabilities, row i for the image at position i of the val index
and column k for the class of label k: the logarithm of the mean, over the plan's views, of the softmax probabilities,
computed in float32 and rounded once. `scores-<plan>.json` beside it says what it was made from, and its checksum.
Errors are counted from the file, not from what was rounded into it, so that the file and the report always agree.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.evaluation.parts import BrokenPart, PartFolder
from pipeline.runs.artifact import replacing, sha256_of, write_json


@dataclasses.dataclass(frozen=True)
class ScoreDescription:
    """What a score file holds."""

    made_from: dict[str, Any]
    """Weights, crop plan, images, network, preprocessing and arithmetic."""
    images: int
    classes: int
    seconds: float
    """Wall time of the scoring, over all lives of the stage."""
    sha256: str
    """Of the .npy file."""


class ScoreFile:
    """The score file of one plan in a stage's directory."""

    def __init__(self, directory: Path, plan: str) -> None:
        self.path = directory / f"scores-{plan}.npy"
        self.description_path = directory / f"scores-{plan}.json"

    def describe(self, made_from: dict[str, Any]) -> ScoreDescription | None:
        """The description; None unless the file is there, whole, and made from exactly this."""
        try:
            description = ScoreDescription(**json.loads(self.description_path.read_text()))
            is_ours = description.made_from == made_from and description.sha256 == sha256_of(self.path)
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return description if is_ours else None

    def assemble(self, parts: PartFolder, made_from: dict[str, Any]) -> ScoreDescription:
        """Put all parts into one file and describe it; at no time is more than one part in memory."""
        num_images, num_classes = parts.shape
        # The description goes first and comes last: as long as it is not there, the file does not count.
        self.description_path.unlink(missing_ok=True)
        seconds = 0.0
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (num_images, num_classes)}
            np.lib.format.write_array_header_1_0(file, header)
            for number in range(len(parts)):
                try:
                    part = parts.read(number)
                except BrokenPart as problem:
                    raise UserError(f"{problem} since it was written; run the same command again to redo it") from None
                file.write(part.scores.tobytes())
                seconds += part.seconds
        description = ScoreDescription(made_from, num_images, num_classes, round(seconds, 3), sha256_of(self.path))
        write_json(self.description_path, dataclasses.asdict(description))
        return description

    def open(self) -> npt.NDArray[np.float16]:
        """The scores, memory-mapped: rows are read from disk as they are looked at."""
        scores: npt.NDArray[np.float16] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return scores
