"""DALI pipelines over the images of an index: read in a given order, each with parameters, changed files named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.dlpack
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from pipeline.config.operations import LoaderConfig
from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import CropImages
from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.data.verification import changed_files, require_sizes
from pipeline.ground.errors import UserError

Integers = npt.NDArray[np.int64]

DECODE = {"output_type": types.RGB, "adjust_orientation": False}
"""Arguments of every decoder: the pixels as they are stored, since EXIF's orientation is no part of ImageNet."""


def pad_to_batches(positions: Integers, batch: int) -> tuple[Integers, int]:
    """The positions, filled up with the last to whole batches, since DALI's are all of one size; and the batch, which
    is no larger than they need."""
    batch = min(batch, len(positions))
    return np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % batch)]), batch


def decode_slices(
    files: Any, augmentation: Augmentation, batch: int, gpu: int | None, *columns: npt.NDArray[Any]
) -> list[Any]:
    """In a graph: no more of each image decoded than its training crop, and the rows of further columns as inputs."""
    anchors_N2 = np.stack([augmentation.tops, augmentation.lefts], axis=1).astype(np.int32)
    shapes_N2 = np.stack([augmentation.heights, augmentation.widths], axis=1).astype(np.int32)
    anchors, shapes, *others = parameters([anchors_N2, shapes_N2, *columns], batch)
    device = "cpu" if gpu is None else "mixed"
    return [fn.decoders.image_slice(files, start=anchors, shape=shapes, axes=[0, 1], device=device, **DECODE), *others]


def parameters(columns: list[npt.NDArray[Any]], batch: int) -> Any:
    """The rows of each column, `batch` at a time, as DALI inputs; the pipeline ends with the columns."""

    def rows(iteration: int) -> list[npt.NDArray[Any]]:
        start = iteration * batch
        if start >= len(columns[0]):
            raise StopIteration
        return [column[start : start + batch] for column in columns]

    return fn.external_source(rows, num_outputs=len(columns), batch=True, batch_info=False)


def run_pipeline(
    index: ImageIndex,
    positions: Integers,
    graph: Callable[[Any], list[Any]],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[tuple[CropImages, ...]]:
    """Run the graph over the files at `positions`; UserError names those that are not as `prepare` read them."""
    with _opened(index, positions, batch, loader) as read:
        pipeline = _build(read, graph, batch, loader, gpu)
        for start in range(0, len(positions), batch):
            # Given PyTorch's stream, DALI orders its work before what is queued there next, and the host need not wait.
            streams = () if gpu is None else (torch.cuda.current_stream(gpu),)
            try:
                *images, rows, sizes = pipeline.run(*streams)
            except RuntimeError as error:
                # DALI seldom names the file, and the failure may lie anywhere in what it has begun.
                ahead = positions[start : start + (loader.prefetch + 3) * batch]
                if changed := changed_files(index, ahead):
                    raise UserError(changed) from error
                raise
            assert np.array_equal(_column(rows), np.arange(start, start + batch)), "files and parameters out of step"
            require_sizes(index, positions[start : start + batch], _column(sizes))
            # DALI's dynamic executor hands the memory over; it is not written to while a tensor refers to it.
            yield tuple(_view(image) for image in images)


@contextlib.contextmanager
def _opened(
    index: ImageIndex, positions: Integers, batch: int, loader: LoaderConfig
) -> Iterator[Callable[[], Sequence[Any]]]:
    """What puts the reading of the encoded images at `positions`, and the number of each, into a graph."""
    if index.places is None:
        paths = _paths(index, positions)
        # Mapped files would end the process (SIGBUS) where one is cut short while it is read.
        yield lambda: fn.readers.file(files=paths, labels=list(range(len(paths))), dont_use_mmap=True)
        return
    with EncodedImages(index, positions) as encoded:
        batches = encoded.read_batches(positions, batch, ahead=loader.prefetch)
        starts = range(0, len(positions), batch)
        rows = (list(np.arange(start, start + batch).reshape(-1, 1)) for start in starts)
        # DALI has readers of tar files, but none that takes the images in an order of ours.
        try:
            yield lambda: fn.external_source(zip(batches, rows, strict=True), num_outputs=2, batch=True)
        finally:
            batches.close()


def _view(output: Any) -> CropImages:
    """Channels first; images of several sizes one by one."""
    if output.is_dense_tensor():
        return torch.utils.dlpack.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
    return tuple(torch.utils.dlpack.from_dlpack(output[row]).permute(2, 0, 1) for row in range(len(output)))


def _paths(index: ImageIndex, positions: Integers) -> list[str]:
    # Joined here, not one by one as `index.file` does: there can be a hundred thousand.
    root = str(index.root)
    paths = [f"{root}/{index.paths[position]}" for position in positions]
    for path in paths:
        if not path.isascii() and any("\ud800" <= character <= "\udfff" for character in path):
            raise UserError(f"{path!r}: DALI cannot open a name that is not UTF-8; rename it and run prepare again")
    return paths


def _build(
    read: Callable[[], Sequence[Any]],
    graph: Callable[[Any], list[Any]],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Any:
    pipeline = Pipeline(
        batch_size=batch,
        num_threads=loader.threads,
        device_id=gpu,
        prefetch_queue_depth=loader.prefetch,
        exec_dynamic=True,
    )
    with pipeline:
        files, rows = read()
        pipeline.set_outputs(*graph(files), rows, files.shape(dtype=types.INT64))
    pipeline.build()
    return pipeline


def _column(output: Any) -> Integers:
    return np.asarray(output.as_tensor()).reshape(-1).astype(np.int64)
