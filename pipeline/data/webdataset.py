"""WebDataset tar files of others: files that share a name up to its first dot are a sample; read in place by offset.

Of a sample, the image (jpg, jpeg, png, webp) and the label are read: `cls`, or `label` in `json`, whose `filename`, if
it has one, is the image's name.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.data.archive import members
from pipeline.data.canonical import Row, make_tree
from pipeline.data.findings import Finding
from pipeline.data.ilsvrc import Ilsvrc
from pipeline.data.places import Ranges
from pipeline.data.tree import SplitTree, ignored, is_dropping
from pipeline.ground.errors import UserError

_IMAGES = ("jpg", "jpeg", "png", "webp")
_THREADS = 16
_Sample = dict[str, Any]


def read_webdataset(split: str, folder: Path, files: Sequence[Path], root: Path, table: Ilsvrc | None) -> SplitTree:
    """List the samples of tar files. Raises UserError if one is damaged or its labels cannot be read."""
    ranges = Ranges(root)
    numbers = [ranges.add_file(path) for path in files]
    rows: list[Row] = []
    findings: list[Finding] = []
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for number, path, samples in zip(numbers, files, threads.map(_read, files), strict=True):
            for key, sample in samples.items():
                if "offset" in sample:
                    place = (number, sample["offset"], sample["length"])
                    rows.append(Row(sample["name"], sample["row"], sample.get("label"), *place, sample["ending"]))
                else:
                    findings.append(ignored(split, f"{path.name}/{key}", "no image"))
    stems = [path.stem for path in files]
    return make_tree(split, folder, ranges, stems, rows, findings, None, table, "webdataset")


def _read(path: Path) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    with path.open("rb") as file:
        for member in members(path, file):
            folder, slash, name = member.name.removeprefix("./").rpartition("/")
            if is_dropping(name):
                continue
            stem, _, ending = name.partition(".")
            key = f"{folder}{slash}{stem}"
            sample = samples.setdefault(key, {"row": len(samples)})
            if ending.lower() in _IMAGES:
                name_known = sample.get("name") or f"{key}.{ending}"
                sample |= {"offset": member.offset_data, "length": member.size, "ending": ending, "name": name_known}
            elif ending == "cls":
                sample["label"] = _number(path, member.name, _content(file, member.offset_data, member.size))
            elif ending == "json":
                _add_fields(sample, path, member.name, _content(file, member.offset_data, member.size))
    return samples


def _add_fields(sample: _Sample, path: Path, name: str, content: bytes) -> None:
    try:
        fields = json.loads(content)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: {name} must be JSON with the image's label (given {content[:60]!r})")
    if "label" in fields:
        sample.setdefault("label", _number(path, name, str(fields["label"]).encode()))
    if isinstance(fields.get("filename"), str):
        sample["name"] = fields["filename"]


def _number(path: Path, name: str, content: bytes) -> int:
    try:
        return int(content)
    except ValueError:
        raise UserError(f"{path}: {name} must be the number of a class (given {content[:60]!r})") from None


def _content(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
