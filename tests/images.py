"""Small real JPEG data sets that tests make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.ground.seeds import derive_seed


def write_image_folders(root: Path, num_classes: int, train_per_class: int, val_per_class: int, seed: int = 0) -> Path:
    """root/{train,val}/class_<k>/<i>.jpg, each class with a colour of its own under noise, sizes from 32 to 48 px."""
    for split, count in (("train", train_per_class), ("val", val_per_class)):
        for label in range(num_classes):
            folder = root / split / f"class_{label:02d}"
            folder.mkdir(parents=True)
            colour = np.random.default_rng(derive_seed(seed, "colour", label)).integers(40, 216, 3)
            for number in range(count):
                generator = np.random.default_rng(derive_seed(seed, split, label, number))
                height, width = generator.integers(32, 49, 2)
                pixels = colour + generator.normal(0, 30, (height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=92)
    return root
