"""The data set that needs no download: scikit-learn's handwritten digits as JPEG folders in ImageNet's layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.ground.seeds import derive_seed
from pipeline.store.file import naming

CLASS_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SIZE_PX = 32
_JPEG_QUALITY = 95
_TRAIN_SHARE = 0.8
_BRIGHTEST = 16
"""The digits' grey levels run from 0 to 16."""


def write_digits(folder: Path, split: str) -> None:
    """Write a split, train or val, as `folder`/<digit>/*.JPEG, replacing earlier content.

    Both together are 1,797 RGB images of 32 x 32 pixels, enlarged from 8 x 8; four fifths of each class are for
    training. The same bytes every time: the split belongs to the data set and does not depend on the run's seed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    with naming(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for digit in range(len(CLASS_WORDS)):
            rows = np.flatnonzero(digits.target == digit)
            rows = np.random.Generator(np.random.Philox(derive_seed("digits", digit))).permutation(rows)
            num_train = round(_TRAIN_SHARE * len(rows))
            chosen = rows[:num_train] if split == "train" else rows[num_train:]
            _write_class(folder / str(digit), digits.images, chosen)
        # Flushed together before the stage is declared done; one by one it would take seconds.
        os.sync()


def _write_class(folder: Path, images: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> None:
    folder.mkdir(parents=True)
    for row in sorted(rows.tolist()):
        grey = Image.fromarray((images[row] * (255 / _BRIGHTEST)).round().astype(np.uint8))
        image = grey.resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BICUBIC).convert("RGB")
        image.save(folder / f"digit_{row:04d}.JPEG", quality=_JPEG_QUALITY)
