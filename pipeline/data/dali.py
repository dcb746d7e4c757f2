"""Reading, decoding, cropping and resizing by NVIDIA DALI: on the GPU, or on the CPU without any GPU.

DALI carries out what it is given: the files in their order, and for each image the crop and mirroring in numbers. None
of its operators is random and it neither shuffles nor shards, so its own checkpoints are not needed: a pipeline that
starts at a later image yields exactly the rest.
"""

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
from pipeline.data.batch import View
from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.data.verification import changed_files, require_sizes
from pipeline.data.window import Window, resized_sizes
from pipeline.errors import UserError
from pipeline.exchange.preprocessing import Resize

Integers = npt.NDArray[np.int64]
_KERNELS: dict[Resize, dict[str, Any]] = {
    "bilinear_antialias": {"interp_type": types.INTERP_LINEAR, "antialias": True},
    "bilinear": {"interp_type": types.INTERP_LINEAR, "antialias": False},
    "bicubic_antialias": {"interp_type": types.INTERP_CUBIC, "antialias": True},
}
_DECODE = {"output_type": types.RGB, "adjust_orientation": False}


def decode_crops(
    index: ImageIndex,
    positions: Integers,
    augmentation: Augmentation,
    size_px: int,
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[torch.Tensor]:
    """Crop, resize and mirror the images at `positions`, `batch` at a time; their number is a multiple of `batch`.

    Yields (batch, 3, size_px, size_px) uint8, channels-last in memory, on GPU number `gpu` where one is given.
    """
    anchors_N2 = np.stack([augmentation.tops, augmentation.lefts], axis=1).astype(np.int32)
    shapes_N2 = np.stack([augmentation.heights, augmentation.widths], axis=1).astype(np.int32)
    mirrored_N = augmentation.mirrored.astype(np.int32)

    def graph(files: Any) -> list[Any]:
        anchors, shapes, mirrored = _parameters([anchors_N2, shapes_N2, mirrored_N], batch)
        images = fn.decoders.image_slice(
            files,
            start=anchors,
            shape=shapes,
            axes=[0, 1],
            device="cpu" if gpu is None else "mixed",
            **_DECODE,
        )
        images = fn.resize(images, size=[size_px, size_px], **_KERNELS["bilinear_antialias"])
        return [fn.flip(images, horizontal=mirrored)]

    for (images,) in _run(index, positions, graph, batch, loader, gpu):
        assert isinstance(images, torch.Tensor), "crops are of one size"
        yield images


def decode_windows(
    index: ImageIndex,
    positions: Integers,
    windows: Sequence[Window],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[tuple[View, ...]]:
    """Decode each image once and cut every window from it; `batch` images at a time, in the last batch what is left.

    Yields for each window (N, 3, crop_px, crop_px) uint8, channels-last in memory; or, for a window without a size, N
    whole images (3, H, W).
    """
    # DALI's batches are all of one size: the last is filled up with its last image, and what is too much cut off again.
    batch = min(batch, len(positions))
    padded = np.concatenate([positions, np.repeat(positions[-1:], -len(positions) % batch)])
    heights, widths = index.heights[padded], index.widths[padded]
    scales: dict[tuple[int, Resize], list[int]] = {}
    for number, window in enumerate(windows):
        scales.setdefault((window.resize_px, window.kernel), []).append(number)
    columns: list[npt.NDArray[Any]] = []
    for (resize_px, _), numbers in scales.items():
        sizes = resized_sizes(heights, widths, resize_px)
        if _is_alone(windows, numbers):
            columns += _sources(windows[numbers[0]], heights, widths, sizes)
        else:
            columns.append(np.stack(sizes, axis=1).astype(np.float32))
            cut = [windows[number] for number in numbers if windows[number].cut_px is not None]
            columns += [window.anchors(*sizes).astype(np.int32) for window in cut]

    def graph(files: Any) -> list[Any]:
        images = fn.decoders.image(files, device="cpu" if gpu is None else "mixed", **_DECODE)
        parameters = iter(_parameters(columns, batch))
        views: dict[int, Any] = {}
        for (_, kernel), numbers in scales.items():
            if _is_alone(windows, numbers):
                (number,) = numbers
                part = {
                    "size": [windows[number].cut_px] * 2,
                    "roi_start": next(parameters),
                    "roi_end": next(parameters),
                }
                views[number] = _fit(fn.resize(images, **part, **_KERNELS[kernel]), windows[number])
                continue
            resized = fn.resize(images, size=next(parameters), **_KERNELS[kernel])
            for number in numbers:
                views[number] = _cut(resized, windows[number], parameters)
        return [views[number] for number in range(len(windows))]

    for start, views in zip(range(0, len(padded), batch), _run(index, padded, graph, batch, loader, gpu), strict=True):
        yield tuple(view[: len(positions) - start] for view in views)


def _is_alone(windows: Sequence[Window], numbers: Sequence[int]) -> bool:
    """Whether one window alone is cut from a scale: then no more of the image is resized than it shows."""
    return len(numbers) == 1 and windows[numbers[0]].cut_px is not None


def _sources(
    window: Window, heights: Integers, widths: Integers, sizes: tuple[Integers, Integers]
) -> list[npt.NDArray[Any]]:
    """Where a window begins and ends in the images before they are resized to `sizes`: two columns of (N, 2) pixels."""
    shares_N2 = np.stack([heights, widths], axis=1) / np.stack(sizes, axis=1)
    anchors_N2 = window.anchors(*sizes)
    assert window.cut_px is not None, "a whole image needs no source"
    return [(ends_N2 * shares_N2).astype(np.float32) for ends_N2 in (anchors_N2, anchors_N2 + window.cut_px)]


def _cut(resized: Any, window: Window, parameters: Iterator[Any]) -> Any:
    if window.cut_px is None:
        return resized
    return _fit(fn.slice(resized, start=next(parameters), shape=[window.cut_px] * 2, axes=[0, 1]), window)


def _fit(crop: Any, window: Window) -> Any:
    if window.cut_px == window.crop_px:
        return crop
    return fn.resize(crop, size=[window.crop_px] * 2, **_KERNELS[window.kernel])


def _parameters(columns: list[npt.NDArray[Any]], batch: int) -> Any:
    """The rows of each column, `batch` at a time, as DALI inputs; the pipeline ends with the columns."""

    def rows(iteration: int) -> list[npt.NDArray[Any]]:
        start = iteration * batch
        if start >= len(columns[0]):
            raise StopIteration
        return [column[start : start + batch] for column in columns]

    return fn.external_source(rows, num_outputs=len(columns), batch=True, batch_info=False)


def _run(
    index: ImageIndex,
    positions: Integers,
    graph: Callable[[Any], list[Any]],
    batch: int,
    loader: LoaderConfig,
    gpu: int | None,
) -> Iterator[tuple[View, ...]]:
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


def _view(output: Any) -> View:
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
