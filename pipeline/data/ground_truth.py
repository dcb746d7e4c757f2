"""The labels of ImageNet's validation images, in the files in which people have them."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.ground.errors import UserError

_TEXT = "ILSVRC2012_validation_ground_truth.txt"
_DEVKIT = "ILSVRC2012_devkit_t12"
_SOLUTION = "LOC_val_solution.csv"
_NUMBERED_NAME = re.compile(r"ILSVRC2012_(val|test)_(\d{8})\.(JPEG|jpeg|jpg|JPG)")


def image_number(split: str, path: str) -> int | None:
    """Return the number in the contest's name of a validation or test image, or None for any other name."""
    match = _NUMBERED_NAME.fullmatch(path.rsplit("/", 1)[-1])
    return int(match[2]) if match and match[1] == split else None


def find_ground_truth(root: Path, val: Path) -> Path | None:
    """Return the first known file with the labels at data.root, beside the images, or at the root of Kaggle's tree."""
    kaggle = [val.parents[3]] if val.match("ILSVRC/Data/CLS-LOC/*") and len(val.parents) > 3 else []
    for folder in dict.fromkeys((root, val.parent, *kaggle)):
        for name in (f"{_DEVKIT}.tar.gz", f"{_DEVKIT}/data/{_TEXT}", _TEXT, _SOLUTION):
            if (folder / name).is_file():
                return folder / name
    return None


def read_ids(path: Path, id_of_wnid: dict[str, int]) -> dict[int, int]:
    """Read the ILSVRC2012_ID of each validation image, by the image's number.

    From the devkit's text, the packed devkit, which both have a line for each image in order, or Kaggle's table, which
    names the images. Raises UserError naming the line that is none of it.
    """
    place = f"data.val_ground_truth: {path}"
    try:
        text = _read(path)
    except (OSError, UnicodeDecodeError, tarfile.TarError, KeyError) as error:
        raise UserError(f"{place} cannot be read ({error})") from error
    if names_images(path):
        return dict(_solution(text, place, id_of_wnid))
    ids = {}
    for number, line in enumerate(text.splitlines(), start=1):
        # The last word, so that lists of names with labels can be told apart by what their labels are.
        try:
            ids[number] = int(line.split()[-1])
        except (IndexError, ValueError):
            raise UserError(f"{place}:{number}: must be one ILSVRC2012_ID a line (given {line[:60]!r})") from None
    return ids


def names_images(path: Path) -> bool:
    """Return whether a file of labels names the image of each, as Kaggle's does; it need not have all of them."""
    return path.suffix == ".csv"


def _read(path: Path) -> str:
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as tar:
            member = next((member for member in tar if member.name.endswith(f"/{_TEXT}")), None)
            file = None if member is None else tar.extractfile(member)
            if file is None:
                raise KeyError(f"it has no {_TEXT}")
            return file.read().decode()
    return path.read_text()


def _solution(text: str, place: str, id_of_wnid: dict[str, int]) -> Iterator[tuple[int, int]]:
    """Number and ILSVRC2012_ID of each line: `ImageId,PredictionString`, which is boxes behind their wnid."""
    rows = csv.DictReader(io.StringIO(text))
    if rows.fieldnames != ["ImageId", "PredictionString"]:
        raise UserError(f"{place}:1: must be ImageId,PredictionString (given {text[:60].splitlines()[:1]})")
    for row in rows:
        number = image_number("val", f"{row['ImageId']}.JPEG")
        words = (row["PredictionString"] or "").split()
        if number is None or not words or words[0] not in id_of_wnid:
            given = f"{row['ImageId']},{row['PredictionString']}"[:60]
            raise UserError(
                f"{place}:{rows.line_num}: must give an image, as ILSVRC2012_val_00000001, and its class of ILSVRC "
                f"2012 (given {given!r})"
            )
        yield number, id_of_wnid[words[0]]
