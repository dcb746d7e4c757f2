"""The images that loaders are measured on: a folder or tar of the user's, or the digits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.digits import write_digits
from pipeline.data.index import ImageIndex
from pipeline.ground.errors import UserError

_SUFFIXES = {".jpg", ".jpeg"}
_TOLD_EVERY = 1000

Progress = Callable[[str], None]


@contextlib.contextmanager
def benchmark_images(
    source: Path | None, limit: int, batch: int, progress: Progress = lambda text: None
) -> Iterator[ImageIndex]:
    """An index of JPEG files in or below `source`: whole batches of `batch`, together at most `limit` images.

    They are taken evenly from all that are there.

    `source` is a folder or a tar file, which is unpacked to a temporary folder; None stands for the digits. Files lie
    anywhere below it. UserError where they do not make a batch.
    """
    with contextlib.ExitStack() as stack:
        if source is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            progress("writing the digits")
            write_digits(folder)
            yield index_folder(folder / "train", limit, batch, progress)
        elif source.is_dir():
            yield index_folder(source, limit, batch, progress)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            progress(f"unpacking {source}")
            _unpack(source, folder)
            yield index_folder(folder, limit, batch, progress)


def index_folder(folder: Path, limit: int, batch: int, progress: Progress) -> ImageIndex:
    """The index of a folder's JPEG files, read from their headers only; labels are the places of their folders."""
    if limit < batch:
        raise UserError(f"--limit: must be a batch at least, of which --batch makes {batch:,} (given {limit:,})")
    found = sorted(_listed(folder, progress))
    count = min(limit, len(found)) // batch * batch
    if not count:
        raise UserError(
            f"--images: {folder} must hold a batch of {batch} JPEG files (.jpg, .jpeg) at least "
            f"(it holds {len(found):,}{f', --limit is {limit:,}' if limit < batch else ''})"
        )
    chosen = [found[place] for place in np.linspace(0, len(found) - 1, count).round().astype(int)]
    progress(f"reading the sizes of {count:,} of {len(found):,} images")
    sizes = [_size(path) for path in chosen]
    folders = sorted({path.parent for path in chosen})
    paths = [path.relative_to(folder).as_posix() for path in chosen]
    return ImageIndex(
        root=folder,
        paths=paths,
        labels=np.array([folders.index(path.parent) for path in chosen], dtype=np.int64),
        num_bytes=np.array([path.stat().st_size for path in chosen], dtype=np.int64),
        widths=np.array([width for width, _ in sizes], dtype=np.int64),
        heights=np.array([height for _, height in sizes], dtype=np.int64),
        sha256=[""] * len(chosen),
        flags=[""] * len(chosen),
        digest=hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest(),
    )


def describe_images(index: ImageIndex, source: Path | None) -> str:
    """How many and how large, in one line, with a warning where they are the digits."""
    text = (
        f"{len(index):,} images, mean {index.widths.mean():.0f} x {index.heights.mean():.0f} px, "
        f"{index.num_bytes.mean() / 1e3:.1f} KB"
    )
    if source is None:
        text += " (the digits: far smaller than photographs, so their decoding costs next to nothing; see --images)"
    return text


def _listed(folder: Path, progress: Progress) -> Iterator[Path]:
    """The JPEG files in and below a folder, in no order; it may hold a million on a slow file system."""
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


def _size(path: Path) -> tuple[int, int]:
    """Width and height."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise UserError(f"--images: {path} is no image that can be read ({error})") from error
