from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.data.digits import write_digits


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_digits_are_the_same_bytes_every_time_and_replace_what_was_there(tmp_path: Path) -> None:
    for split, count in (("train", 1438), ("val", 359)):
        write_digits(tmp_path / split / "one", split)
        (tmp_path / split / "two" / "0").mkdir(parents=True)
        (tmp_path / split / "two" / "0" / "half.JPEG").write_bytes(b"half")
        write_digits(tmp_path / split / "two", split)
        one, two = files_of(tmp_path / split / "one"), files_of(tmp_path / split / "two")
        assert one == two
        assert len(one) == count


def test_digits_are_split_by_class_and_every_image_is_in_one_place(tmp_path: Path) -> None:
    digits = load_digits()
    seen = []
    for split, share in (("train", 0.8), ("val", 0.2)):
        write_digits(tmp_path / split, split)
        for digit in range(10):
            rows = [int(path.stem.removeprefix("digit_")) for path in (tmp_path / split / str(digit)).iterdir()]
            assert abs(len(rows) - share * np.sum(digits.target == digit)) <= 0.5
            assert {int(digits.target[row]) for row in rows} == {digit}
            seen += rows
    assert sorted(seen) == list(range(1797))


def test_images_show_the_digits(tmp_path: Path) -> None:
    write_digits(tmp_path, "val")
    digits = load_digits()
    for path in sorted((tmp_path / "3").iterdir())[:5]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
            small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), dtype=float)
        row = int(path.stem.removeprefix("digit_"))
        correlation = np.corrcoef(small.ravel(), digits.images[row].ravel())[0, 1]
        assert correlation > 0.95
