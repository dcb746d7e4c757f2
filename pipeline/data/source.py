"""Find the images of an index at the place given by this attempt's recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.data.index import ImageIndex
from pipeline.data.places import Places, Source, read_places, write_places
from pipeline.data.shards import list_shards
from pipeline.data.tree import no_folder, split_folder

DIGITS = "images"
"""Folder of a stage directory for the digits that `prepare` writes."""


def locate(index: ImageIndex, directory: Path, data: DataConfig) -> ImageIndex:
    """Return the index of `directory`, with the place of its images.

    Reads operations of `data` alone. Raises UserError if the folder is missing, or has no shards of these images.
    """
    if data.shards is not None:
        folder = Path(data.shards)
        return dataclasses.replace(index, source=Source("shards", folder, _places(index, directory, folder)))
    if index.dataset == "digits":
        return dataclasses.replace(index, source=Source("folders", directory / DIGITS))
    folder = split_folder(data, index.split)
    if not folder.is_dir():
        raise no_folder(index.split, folder)
    return dataclasses.replace(index, source=_listed(index, folder))


def place_name(index: ImageIndex) -> str:
    """Describe the images' path and layout, always in the same words for the same place."""
    assert index.source is not None, "the index is not located"
    layout = {"folders": "class folders in", "flat": "", "shards": "shards in"}[index.source.layout]
    return f"{layout} {os.path.abspath(index.source.folder)}".strip()


def _listed(index: ImageIndex, folder: Path) -> Source:
    """Find images in either of ImageNet's layouts of validation images; their names are unique without a folder."""
    first = index.names[0]
    may_be_flat = index.dataset == "imagenet" and index.split == "val"
    if may_be_flat and not (folder / first).exists() and (folder / first.rpartition("/")[2]).exists():
        return Source("flat", folder)
    return Source("folders", folder)


def _places(index: ImageIndex, directory: Path, folder: Path) -> Places:
    """Return the table beside the index if it matches the shards, else a new one."""
    places = read_places(directory, index.digest)
    if places is None or not _fits(places, folder):
        places = list_shards(folder, index)
        with contextlib.suppress(OSError):  # it saves time, and may be another's directory
            write_places(directory, index.digest, places)
    return places


def _fits(places: Places, folder: Path) -> bool:
    try:
        sizes = [(folder / file).stat().st_size for file in places.files]
    except OSError:
        return False
    return sizes == list(places.file_bytes)
