"""Score files of an ensemble without networks: generated answers of known quality, and the index they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.index import UNLABELLED, Dataset, ImageClass, ImageRecord, read_dataset, write_dataset
from pipeline.evaluation.scores import ScoreDescription, ScoreFile, digest_classes, digest_images, image_names


def make_scores(
    labels: npt.NDArray[np.int64], num_classes: int, seed: int, skill: float = 2.0
) -> npt.NDArray[np.float16]:
    """(N, K) float16 log-probabilities that favour the true class the more the higher the skill."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += skill * generator.random(len(labels))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float16)


def make_dataset(
    directory: Path, num_images: int = 40, num_classes: int = 8, name: str = "folder", split: str = "val"
) -> Dataset:
    """A prepare stage's directory whose `split` has images named like the contest's, not in their order."""
    directory.mkdir(parents=True)
    classes = [
        ImageClass(label, f"n{label:08d}", f"word {label}", num_classes - label if name == "imagenet" else None)
        for label in range(num_classes)
    ]
    records = [
        ImageRecord(
            f"ILSVRC2012_{split}_{(position * 7) % num_images + 1:08d}.JPEG",
            UNLABELLED if split == "test" else position % num_classes,
            1000,
            100 + position,
            50 + position,
            f"{position:016d}",
        )
        for position in range(num_images)
    ]
    splits: dict[str, list[ImageRecord]] = {"train": [], "val": [], split: records}
    write_dataset(directory, name, classes, dict.fromkeys(splits, directory), splits)
    return read_dataset(directory)


def write_scores(
    directory: Path,
    plan: str,
    array: npt.NDArray[np.float16],
    dataset: Dataset,
    split: str = "val",
    weights: str = "weights.safetensors",
) -> Path:
    """A score file as the evaluate stage leaves it; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    index = dataset.val if split == "val" else dataset.test
    assert index is not None
    draft = ScoreDescription(
        plan=plan,
        averaging="probabilities",
        split="val" if split == "val" else "test",
        weights=weights,
        weights_sha256=f"sha256 of {weights}",
        images=len(array),
        images_sha256=digest_images(image_names(index)),
        classes=array.shape[1],
        classes_sha256=digest_classes(dataset.classes),
        made_from={"plan": plan},
        seconds=1.5,
        sha256="",
    )
    file = ScoreFile(directory, plan)
    file.write(draft, [array])
    return file.path
