"""Find the images of an index at the place given by this attempt's recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.data import DataConfig
from pipeline.data.cifar import read_cifar
from pipeline.data.cifar_versions import CIFAR
from pipeline.data.index import ImageIndex
from pipeline.data.layout import find_copies, find_ranges
from pipeline.data.places import Places, Source, read_places, write_places
from pipeline.data.recognition import Place, cifar_place, find_place
from pipeline.data.shards import list_shards
from pipeline.ground.errors import UserError

DIGITS = "images"
"""The folder of a stage directory into which `prepare` writes the digits."""
_SAID = {"folders": "class folders in ", "images": "class folders in ", "flat": "", "shards": "shards in "}


def locate(index: ImageIndex, directory: Path, data: DataConfig) -> ImageIndex:
    """Return the index of `directory`, with the place of its images.

    Reads operations of `data` alone. Raises UserError if the folder is not there, or large files at data.root or in
    data.shards do not have these images.
    """
    if data.shards is not None:
        folder = Path(data.shards)
        return dataclasses.replace(index, source=Source("shards", folder, _in_shards(index, directory, folder)))
    if index.dataset == "digits":
        return dataclasses.replace(index, source=Source("folders", directory / DIGITS))
    if index.dataset in CIFAR:
        place = cifar_place(data, index.dataset, index.split)

        def read() -> npt.NDArray[np.uint8]:
            pixels, _ = read_cifar(place.path, index.dataset, index.split, place.files)
            return pixels[[int(name) for name in index.names]]

        return dataclasses.replace(index, source=Source("memory", place.path, None, read))
    missing: UserError | None = None
    try:
        place = find_place(data, index.split, may_share=False)
    except UserError as error:
        # Held out, perhaps, of the training images. What is held out is no operation, so the first image must say it.
        missing, place = error, find_place(data, index.split, may_share=True)
    source = _loose(index, place) if place.is_loose else _inside(index, place, directory, data)
    if missing is not None and source.places is None and not os.path.exists(source.file(index.names[0], 0)):
        raise missing
    return dataclasses.replace(index, source=source)


def place_name(index: ImageIndex) -> str:
    """Say where the images lie, in the same words whenever that is the same path and layout."""
    source = index.source
    assert source is not None, "the index is not located"
    said = _SAID.get(source.layout)
    folder = os.path.abspath(source.folder)
    if said is not None or source.places is None:
        return f"{said or ''}{folder}"
    files = source.places.files
    which = os.path.join(folder, files[0]) if len(files) == 1 else f"{len(files):,} tar files in {folder}"
    return which if len(files) == 1 else f"{which}, {files[0]} the first"


def _loose(index: ImageIndex, place: Place) -> Source:
    """Return the source. The first image shows whether they lie flat, as names that are unique without a folder may."""
    if place.kind == "tiny":
        is_table = (place.path / "images").is_dir()
        return Source("flat", place.path / "images") if is_table else Source("images", place.path)
    folder, file = place.path, index.names[0].rpartition("/")[2]
    if index.split == "val" and not (folder / index.names[0]).exists() and (folder / file).exists():
        return Source("flat", folder)
    return Source("folders", folder)


def _inside(index: ImageIndex, place: Place, directory: Path, data: DataConfig) -> Source:
    """In large files: by the table beside the index, if they are those that it was written for; else by a new one."""
    layout, root = "webdataset" if place.kind == "webdataset" else "tar", Path(data.root or "")
    if place.kind == "parquet":
        raise UserError(f"data.shards: needed for the images of this run, which are in {place}")
    places = read_places(directory, index.digest, layout)
    if places is None or not places.fits(root):
        places = find_ranges(data, place, index)
        if places is None or not np.array_equal(places.lengths, index.num_bytes):
            raise UserError(
                f"data.root: {place} does not have the {index.split} images of this run: put the old ones back, or "
                "begin anew with these in another run (--run)"
            )
        _keep(directory, index, places, layout)
    return Source(layout, root, places)


def _in_shards(index: ImageIndex, directory: Path, folder: Path) -> Places:
    places = read_places(directory, index.digest)
    if places is None or not places.fits(folder):
        places = find_copies(folder, index)
        if places is None or not np.array_equal(places.lengths, index.num_bytes):
            places = list_shards(folder, index)
        _keep(directory, index, places, "shards")
    return places


def _keep(directory: Path, index: ImageIndex, places: Places, layout: str) -> None:
    with contextlib.suppress(OSError):  # it saves time, and may be another's directory
        write_places(directory, index.digest, places, layout)
