"""Score files of an ensemble without networks: generated answers of known quality, and the index they belong to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.index import UNLABELLED, ImageClass, ImageIndex, read_index, write_index
from pipeline.data.index import make_index as index_of
from pipeline.evaluation.scores import KIND, ScoreDescription, ScoreFile, digest_classes, digest_images, read_scores
from pipeline.store.seal import seal_directory, seal_file


def make_scores(
    labels: npt.NDArray[np.int64], num_classes: int, seed: int, skill: float = 2.0
) -> npt.NDArray[np.float16]:
    """(N, K) float16 log-probabilities that favour the true class the more the higher the skill."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += skill * generator.random(len(labels))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float16)


def make_index(
    directory: Path, num_images: int = 40, num_classes: int = 8, dataset: str = "folder", split: str = "val"
) -> ImageIndex:
    """The index in a directory of `prepare`, of images named like the contest's, not in their order."""
    directory.mkdir(parents=True)
    classes = [
        ImageClass(label, f"n{label:08d}", f"word {label}", num_classes - label if dataset == "imagenet" else None)
        for label in range(num_classes)
    ]
    positions = np.arange(num_images)
    index = index_of(
        split,
        dataset,
        classes,
        names=[f"ILSVRC2012_{split}_{(position * 7) % num_images + 1:08d}.JPEG" for position in range(num_images)],
        labels=np.full(num_images, UNLABELLED) if split == "test" else positions % num_classes,
        num_bytes=np.full(num_images, 1000),
        widths=100 + positions,
        heights=50 + positions,
        sha256=np.repeat(positions.astype(np.uint8)[:, None], 32, axis=1),
        flags=np.zeros(num_images),
    )
    seal_directory(directory, "stage", {}, write_index(directory, index))
    return read_index(directory)


def write_scores(
    directory: Path,
    plan: str,
    array: npt.NDArray[np.float16],
    index: ImageIndex,
    weights: str = "weights.safetensors",
    **changes: object,
) -> Path:
    """A score file as the evaluate stage leaves it, or with changes in its description; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    description = ScoreDescription(
        plan=plan,
        averaging="probabilities",
        split="test" if index.split == "test" else "val",
        weights=weights,
        weights_sha256=f"sha256 of {weights}",
        images=len(array),
        images_sha256=digest_images(index.names),
        classes=array.shape[1],
        classes_sha256=digest_classes(index.classes),
        index_sha256=index.digest,
        key="0123456789",
        seconds=1.5,
    )
    ScoreFile(directory, plan).write(dataclasses.replace(description, **changes), [array])  # type: ignore[arg-type]
    return directory / f"scores-{plan}.npy"


def rewrite_scores(path: Path, array: npt.NDArray[np.float16], **changes: object) -> Path:
    """Replace the array of a score file, or what its description says, and mend its seal."""
    description = dataclasses.replace(read_scores(path).description, **changes)  # type: ignore[arg-type]
    np.save(path, array)
    seal_file(path, KIND, dataclasses.asdict(description))
    return path
