"""Which of a network's classes the class folders of some images are.

The network's classes are those that its weight file lists, or ILSVRC 2012's in the sorted order of the WordNet ids if
it has 1000 and lists none. A folder is found among them by its name; a number from 0, as ImageNet-V2's folders have, is
a label of ILSVRC 2012. Scores keep a column for each class of the network; labels are turned into columns.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import UNLABELLED, ImageClass, ImageIndex
from pipeline.data.tree import name_some
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.store.file import write_json

CLASSES = "classes.json"
"""In an evaluation's directory, if the classes of the images are not the network's."""
LISTED = "classes"
"""The entry of a weight file's metadata that lists the class folders in label order."""


@dataclasses.dataclass(frozen=True)
class ClassMapping:
    """The classes of a network, and which of them those of the images are."""

    classes: tuple[ImageClass, ...]
    """The network's, in the order of its outputs."""
    columns: tuple[int, ...]
    """The network's label of each class of the images, in their order."""

    def applied(self, index: ImageIndex) -> ImageIndex:
        """Return the same images with the network's classes and labels; their digest is that of the images' own."""
        labels = np.asarray((*self.columns, UNLABELLED), np.int64)[index.labels]  # the last, -1, stands for itself
        return dataclasses.replace(index, classes=self.classes, labels=labels)

    def write(self, directory: Path) -> None:
        """Write it to an evaluation's directory, for readers of the scores there."""
        write_json(directory / CLASSES, dataclasses.asdict(self))


def mapped_index(index: ImageIndex, evaluation: Path) -> ImageIndex:
    """Return the index as the network sees it whose evaluation is in a directory."""
    if not (evaluation / CLASSES).exists():
        return index
    stored = json.loads((evaluation / CLASSES).read_text())
    classes = tuple(ImageClass(**fields) for fields in stored["classes"])
    return ClassMapping(classes, tuple(stored["columns"])).applied(index)


def map_classes(
    split: str, folders: Sequence[str], num_classes: int, metadata: Mapping[str, str], file: Path | None, weights: str
) -> ClassMapping | None:
    """Find the class folders of a split among the classes of a network with `num_classes` outputs.

    `metadata` are those of the weight file called `weights` in messages, `file` is what `evaluate.classes` names.
    Returns None if the classes are the network's; unlabelled images have no folders, and then it is the network's
    classes alone. Raises UserError naming both sides if they cannot be told.
    """
    if not folders:
        return ClassMapping(name_classes(metadata, num_classes, weights), ())
    names = _listed(metadata, num_classes, weights)
    if names is None and num_classes == len(_wnids()):
        names = _wnids()
    columns: Sequence[int] | None
    if file is not None:
        columns = _from_file(folders, file, names, num_classes)
    elif names is None:
        if len(folders) != num_classes:
            raise _unknown(split, folders, num_classes, "does not say which they are", weights)
        return None
    elif list(folders) == list(names):
        return None
    else:
        columns = _by_name(folders, names)
        if columns is None:
            few = f"{', '.join(names[:3])} and so on" if len(names) > 3 else ", ".join(names)
            raise _unknown(split, folders, num_classes, f"calls them {few}", weights)
    classes = _network_classes(names or [str(label) for label in range(num_classes)])
    return ClassMapping(classes, tuple(columns))


def name_classes(metadata: Mapping[str, str], num_classes: int, weights: str) -> tuple[ImageClass, ...]:
    """Return the classes of a network by its weight file; they are named by their numbers if nothing says them."""
    numbers = tuple(str(label) for label in range(num_classes))
    default = _wnids() if num_classes == len(_wnids()) else numbers
    return _network_classes(_listed(metadata, num_classes, weights) or default)


def _by_name(folders: Sequence[str], names: Sequence[str]) -> list[int] | None:
    label_of = {name: label for label, name in enumerate(names)}
    if all(folder in label_of for folder in folders):
        return [label_of[folder] for folder in folders]
    if tuple(names) == _wnids() and all(folder.isdecimal() and int(folder) < len(names) for folder in folders):
        return [int(folder) for folder in folders]
    return None


def _from_file(folders: Sequence[str], file: Path, names: Sequence[str] | None, num_classes: int) -> list[int]:
    given, columns, problems = _read_mapping(file), [], []
    label_of = {name: label for label, name in enumerate(names or ())}
    for folder in folders:
        value = given.get(folder)
        if value is None:
            problems.append(f"no line for the class folder {folder}")
        elif value in label_of:
            columns.append(label_of[value])
        elif value.isdecimal() and int(value) < num_classes:
            columns.append(int(value))
        else:
            problems.append(f"{folder}: the network has no class {value} (it has {_shown(names, num_classes)})")
    if problems:
        more = [f"and {len(problems) - 10:,} more such problems"] if len(problems) > 10 else []
        raise UserError("\n  ".join([f"evaluate.classes: {file}:", *problems[:10], *more]))
    return columns


def _read_mapping(file: Path) -> dict[str, str]:
    """Return the class of each folder: of a JSON object, or of the first two columns of a CSV file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            return {str(folder): str(value) for folder, value in json.loads(text).items()}
        rows = [row for row in csv.reader(text.splitlines()) if row]
        return {row[0].strip(): row[1].strip() for row in rows}
    except (OSError, UnicodeDecodeError, ValueError, IndexError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f'evaluate.classes: {file}: must be a JSON object {{"folder": "class", ...}} or a CSV file with a line '
            f"`folder,class` for each folder ({reason})"
        ) from error


def _listed(metadata: Mapping[str, str], num_classes: int, weights: str) -> tuple[str, ...] | None:
    if LISTED not in metadata:
        return None
    try:
        names = tuple(map(str, json.loads(metadata[LISTED])))
    except (ValueError, TypeError) as error:
        raise UserError(f"{weights}: metadata {LISTED}: must be a JSON list of the class folders ({error})") from error
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise UserError(
            f"{weights}: metadata {LISTED}: must name {num_classes:,} classes, each once (given {len(names):,})"
        )
    return names


def _unknown(split: str, folders: Sequence[str], num_classes: int, what: str, weights: str) -> UserError:
    return UserError(
        f"evaluate.classes: the {split} images are in {counted(len(folders), 'class folder')}, "
        f"{name_some(folders, 5)}; the network of {weights} has {counted(num_classes, 'class')} and {what}. Say which "
        "is which in a file: evaluate.classes=classes.csv, with a line `folder,class` for each folder, where the class "
        f"is a name of the network's or its number from 0 to {num_classes - 1}"
    )


def _shown(names: Sequence[str] | None, num_classes: int) -> str:
    numbers = f"numbers 0 to {num_classes - 1}"
    return f"{numbers}, {', '.join(names[:3])} ..." if names else numbers


def _network_classes(names: Sequence[str]) -> tuple[ImageClass, ...]:
    known = {image_class.folder: image_class for image_class in read_ilsvrc2012().classes()}
    return tuple(
        ImageClass(label, name, known[name].words, known[name].ilsvrc2012_id)
        if name in known
        else ImageClass(label, name, name, None)
        for label, name in enumerate(names)
    )


@functools.cache
def _wnids() -> tuple[str, ...]:
    return tuple(synset.wnid for synset in read_ilsvrc2012().synsets)
