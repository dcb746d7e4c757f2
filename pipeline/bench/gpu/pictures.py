"""Pictures as large as ImageNet's, for a machine without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int = 512, width: int = 500, height: int = 375) -> None:
    """Write JPEGs of smooth colours under noise, with subsampled chroma and about 110 KB at the default size."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = generator.integers(-20, 21, (height, width, 1), dtype=np.int16)
        picture = (smooth + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:04d}.jpg", quality=90, subsampling="4:2:0")
