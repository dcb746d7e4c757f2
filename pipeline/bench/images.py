"""The images for benchmarks of loaders: a folder or tar file of the user's, or the digits."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.digits import write_digits
from pipeline.data.index import ImageIndex, make_index
from pipeline.data.places import Source
from pipeline.ground.errors import UserError

_SUFFIXES = {".jpg", ".jpeg"}
_TOLD_EVERY = 1000

Progress = Callable[[str], None]


@contextlib.contextmanager
def benchmark_images(
    source: Path | None, limit: int, batch: int, progress: Progress = lambda text: None
) -> Iterator[ImageIndex]:
    """Index JPEG files in or below `source`: whole batches of `batch`, at most `limit` images, evenly from all.

    `source` is a folder or a tar file, which is unpacked to a temporary folder; None stands for the digits. Files lie
    anywhere below it. Raises UserError if they do not make a batch.
    """
    with image_folder(source, lambda folder: write_digits(folder, "train"), progress) as folder:
        yield index_folder(folder, limit, batch, progress)


@contextlib.contextmanager
def image_folder(
    source: Path | None, make: Callable[[Path], object], progress: Progress = lambda text: None
) -> Iterator[Path]:
    """Yield a folder of images: `source`, or a temporary one.

    That holds what is in the tar file `source` or, without `source`, what `make` has written. Raises UserError if the
    tar file cannot be read.
    """
    if source is not None and source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if source is None:
            progress("making images")
            make(folder)
        else:
            progress(f"unpacking {source}")
            _unpack(source, folder)
        yield folder


def index_folder(folder: Path, limit: int, batch: int, progress: Progress) -> ImageIndex:
    """Make the index of a folder's JPEG files; labels are the places of their folders."""
    if limit < batch:
        raise UserError(f"--limit: must be a batch at least, of which --batch makes {batch:,} (given {limit:,})")
    found = sorted(_listed(folder, progress))
    count = min(limit, len(found)) // batch * batch
    if not count:
        raise UserError(
            f"--images: {folder} must hold a batch of {batch} JPEG files (.jpg, .jpeg) at least "
            f"(it holds {len(found):,})"
        )
    chosen = [found[place] for place in np.linspace(0, len(found) - 1, count).round().astype(int)]
    progress(f"reading {count:,} of {len(found):,} images")
    folders = sorted({path.parent for path in chosen})
    rows = [(folders.index(path.parent), *_facts(path)) for path in chosen]
    names = [path.relative_to(folder).as_posix() for path in chosen]
    labels, num_bytes, widths, heights, sha256 = zip(*rows, strict=True)
    index = make_index("train", "folder", (), names, labels, num_bytes, widths, heights, sha256, np.zeros(count))
    return dataclasses.replace(index, source=Source("folders", folder))


def describe_images(index: ImageIndex, source: Path | None) -> str:
    """Describe number and size of the images in one line, with a warning if they are the digits."""
    text = (
        f"{len(index):,} images, mean {index.widths.mean():.0f} x {index.heights.mean():.0f} px, "
        f"{index.num_bytes.mean() / 1e3:.1f} KB"
    )
    if source is None:
        text += " (the digits: far smaller than photographs, so their decoding costs next to nothing; see --images)"
    return text


def _listed(folder: Path, progress: Progress) -> Iterator[Path]:
    """Yield the JPEG files in and below a folder, in no order; it may hold a million on a slow file system."""
    count = 0
    progress(f"listing {folder}")
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                yield path
                count += 1
                if count % _TOLD_EVERY == 0:
                    progress(f"listing {folder}: {count:,} images")


def _unpack(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"--images: {source} is neither a folder nor a tar file that can be read ({error})") from error


def _facts(path: Path) -> tuple[int, int, int, npt.NDArray[np.uint8]]:
    """Return size, width, height and SHA-256 of a file."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return len(content), *image.size, np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
    except OSError as error:
        raise UserError(f"--images: {path} is no image that can be read ({error})") from error
