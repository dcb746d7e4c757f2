"""The contest's files of predictions and its error, as in the devkit's `eval_flat.m` and `eval_clsloc.m`.

A file has a line for each image, in the order of the images' names. In the form of 2012 it holds the ILSVRC2012_IDs
(1 to 1000) of up to five predictions, surest first. In the form of 2014 and later each prediction is followed by a
box, `id xmin ymin xmax ymax`, which the classification error ignores: an image is an error if its true class is not
among its first five predictions, and the error is their share of *all* images. The devkit's README says that
blacklisted images do not count; that is so for its localisation error only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.ilsvrc import Ilsvrc, check_ground_truth
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError

NUM_PREDICTIONS = 5
_NUMBERS_OF_A_BOX = 5
_SUSPICIOUS_DROP = 0.1
"""An error that is lower by so much in another reading of the file cannot be chance."""

Integers = npt.NDArray[np.int64]
Form = Literal["2012", "2014"]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A file of predictions."""

    path: Path
    form: Form
    ids: Integers
    """(N, 5) ILSVRC2012_IDs, surest first; 0 if a line has fewer."""
    ragged: int
    """Number of lines with fewer predictions than the longest one."""
    ignored: int
    """Number of lines with more than five predictions, of which the first five count."""
    is_ambiguous: bool = False
    """Whether the form was not given and the file makes sense in the other one too."""


@dataclasses.dataclass(frozen=True)
class FlatErrors:
    """Share of errors, 0 to 1, among the first 1, 2 ... 5 predictions."""

    all_images: tuple[float, ...]
    """The contest's."""
    without_blacklisted: tuple[float, ...] | None
    num_blacklisted: int
    mistake: str | None
    """The wrong order that the ids or lines seem to be in; None if they seem right."""


def read_predictions(path: Path, form: Form | None, num_classes: int = 1000) -> Predictions:
    """Read a file of predictions, with numbers separated by blanks, tabs or commas.

    The form is recognised unless given. Raises UserError naming the first line that is wrong.
    """
    rows = _read_numbers(path)
    has_boxes, has_ids = _has_boxes(rows), _has_five_ids(rows, num_classes)
    is_ambiguous = form is None and has_boxes and has_ids
    if form is None:
        form = "2014" if has_boxes and not has_ids else "2012"
    step = 1
    if form == "2014":
        step = _NUMBERS_OF_A_BOX
        for number, row in enumerate(rows, start=1):
            if len(row) % step:
                raise UserError(
                    f"{path}:{number}: each prediction must be `id xmin ymin xmax ymax` (given {len(row)} numbers)"
                )
    predictions = [row[::step] for row in rows]
    longest = max(map(len, predictions))
    ids = np.zeros((len(predictions), NUM_PREDICTIONS), np.int64)
    for number, row in enumerate(predictions, start=1):
        for place, value in enumerate(row[:NUM_PREDICTIONS]):
            if value != int(value) or not 0 <= value <= num_classes:
                raise UserError(
                    f"{path}:{number}: predictions must be ILSVRC2012_IDs, 1 to {num_classes:,} (given {value:g})"
                )
            ids[number - 1, place] = int(value)
    return Predictions(
        path,
        form,
        ids,
        ragged=sum(len(row) < longest for row in predictions),
        ignored=sum(len(row) > NUM_PREDICTIONS for row in predictions),
        is_ambiguous=is_ambiguous,
    )


def read_truth(path: Path, table: Ilsvrc) -> Integers:
    """Read the ILSVRC2012_ID of each image, one a line; as many as there are validation images must be the devkit's."""
    ids = _read_column(path, "one ILSVRC2012_ID a line", 1, len(table.synsets))
    if len(ids) == table.num_val:
        check_ground_truth(str(path), ids, table)
    return np.array(ids, np.int64)


def read_blacklist(path: Path, num_images: int) -> npt.NDArray[np.bool_]:
    """Return (N,): whether an image is blacklisted; the file has their numbers, from 1, one a line."""
    numbers = _read_column(path, "the number of an image a line", 1, num_images)
    is_blacklisted = np.zeros(num_images, np.bool_)
    is_blacklisted[np.array(numbers) - 1] = True
    return is_blacklisted


def flat_errors(
    predictions: Predictions, truth: Integers, is_blacklisted: npt.NDArray[np.bool_] | None, table: Ilsvrc
) -> FlatErrors:
    """Return the errors of a file. Raises UserError unless it has a line for each image and ids that begin at 1."""
    if len(predictions.ids) != len(truth):
        raise UserError(
            f"{predictions.path}: must have {counted(len(truth), 'line')}, one for each image (it has "
            f"{len(predictions.ids):,})"
        )
    found = find_mistake(predictions.ids, truth, table)
    zero = _misplaced_zero(predictions.ids)
    if zero is not None:
        hint = f"; these look like {found}" if found else ""
        raise UserError(
            f"{predictions.path}:{zero + 1}: predictions must be ILSVRC2012_IDs, which begin at 1 (given 0){hint}"
        )
    kept = None if is_blacklisted is None else ~is_blacklisted
    return FlatErrors(
        all_images=_errors(predictions.ids, truth),
        without_blacklisted=None if kept is None else _errors(predictions.ids[kept], truth[kept]),
        num_blacklisted=0 if kept is None else int((~kept).sum()),
        mistake=found,
    )


def find_mistake(ids: Integers, truth: Integers, table: Ilsvrc) -> str | None:
    """Return the known mistake, in words, under which the file makes far more sense, or None."""
    by_label = np.array([synset.ilsvrc2012_id for synset in table.synsets])
    label_of_id = np.zeros(len(by_label) + 1, np.int64)
    label_of_id[by_label] = np.arange(len(by_label))
    # The meaning of ids 0, 1 ... 1000 under each mistake; 0 is none.
    sorted_from_0, sorted_from_1 = np.append(by_label, 0), np.insert(by_label, 0, 0)
    from_0 = np.append(np.arange(1, len(by_label) + 1), 0)
    in_class_folders = np.lexsort((np.arange(len(truth)), label_of_id[truth]))
    readings: dict[str, Callable[[], float]] = {
        "places in the sorted order of the WordNet ids, from 0": lambda: _errors(sorted_from_0[ids], truth)[-1],
        "places in the sorted order of the WordNet ids, from 1": lambda: _errors(sorted_from_1[ids], truth)[-1],
        "ILSVRC2012_IDs that count from 0": lambda: _errors(from_0[ids], truth)[-1],
        "ILSVRC2012_IDs, but with the lines in the order of class folders instead of the images' names": (
            lambda: _errors(ids, truth[in_class_folders])[-1]
        ),
    }
    found = {mistake: error() for mistake, error in readings.items()}
    best = min(found, key=lambda mistake: found[mistake])
    return best if found[best] < _errors(ids, truth)[-1] - _SUSPICIOUS_DROP else None


def _errors(ids: Integers, truth: Integers) -> tuple[float, ...]:
    is_hit = ids == truth[:, None]
    return tuple(1 - float(is_hit[:, :k].any(1).mean()) for k in range(1, NUM_PREDICTIONS + 1))


def _misplaced_zero(ids: Integers) -> int | None:
    """Return the first row with a 0 that is not padding at the end of a short line, or None."""
    rows = np.flatnonzero(((ids[:, :-1] == 0) & (ids[:, 1:] != 0)).any(1) | (ids[:, 0] == 0))
    return int(rows[0]) if len(rows) else None


def _has_boxes(rows: Sequence[Sequence[float]]) -> bool:
    """Return whether all numbers come in fives whose last four are a box, or five sorted predictions."""
    step = _NUMBERS_OF_A_BOX
    return all(
        len(row) % step == 0
        and all(row[at + 1] <= row[at + 3] and row[at + 2] <= row[at + 4] for at in range(0, len(row), step))
        for row in rows
    )


def _has_five_ids(rows: Sequence[Sequence[float]], num_classes: int) -> bool:
    """Return whether each line could be five predictions.

    Of the contest's own boxes some have larger numbers: its images have up to thousands of pixels.
    """
    return all(
        len(row) == NUM_PREDICTIONS and all(value.is_integer() and 0 <= value <= num_classes for value in row)
        for row in rows
    )


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise UserError(f"{path}: cannot be read ({reason})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty")
    return lines


def _read_numbers(path: Path) -> list[list[float]]:
    rows = []
    for number, line in enumerate(_read_lines(path), start=1):
        words = line.replace(",", " ").split()
        if not words:
            raise UserError(f"{path}:{number}: must hold at least one prediction (the line is blank)")
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            raise UserError(f"{path}:{number}: must hold numbers and nothing else (given {line[:60]!r})") from None
        if not np.isfinite(rows[-1]).all():
            raise UserError(f"{path}:{number}: must hold finite numbers (given {line[:60]!r})")
    return rows


def _read_column(path: Path, must: str, low: int, high: int) -> list[int]:
    values = []
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            value = int(line)
        except ValueError:
            raise UserError(f"{path}:{number}: must be {must} (given {line[:60]!r})") from None
        if not low <= value <= high:
            raise UserError(f"{path}:{number}: must be {must}, {low} to {high:,} (given {value})")
        values.append(value)
    return values
