"""DALI pipelines over images read by our threads, each image with parameters; changed images are named."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.dlpack
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from pipeline.data.batch import CropImages
from pipeline.data.encoded import Bytes, EncodedImages, Reading
from pipeline.data.verification import changed_images
from pipeline.ground.errors import UserError

Columns = Sequence[npt.NDArray[Any]]
"""Parameters, a row for each image of the reading."""
Graph = Callable[..., list[Any]]
"""Makes the outputs from the encoded images and the columns."""

DECODE = {"output_type": types.RGB, "adjust_orientation": False}
"""Arguments of every decoder: the pixels as stored, since ImageNet ignores EXIF's orientation."""


def pad_to_batches(reading: Reading) -> Reading:
    """Repeat the last image to fill whole batches, since DALI's are all of one size."""
    positions, batch = reading.positions, min(reading.batch, len(reading.positions))
    padding = np.repeat(positions[-1:], -len(positions) % batch)
    return dataclasses.replace(reading, positions=np.concatenate([positions, padding]), batch=batch)


def decode_slices(files: Any, anchors: Any, shapes: Any, gpu: int | None) -> Any:
    """In a graph: decode only a part of each image."""
    device = "cpu" if gpu is None else "mixed"
    return fn.decoders.image_slice(files, start=anchors, shape=shapes, axes=[0, 1], device=device, **DECODE)


def run_pipeline(reading: Reading, columns: Columns, graph: Graph, gpu: int | None) -> Iterator[tuple[CropImages, ...]]:
    """Run the graph over the images; they are whole batches.

    Raises UserError naming the images that differ from the index.
    """
    with (
        EncodedImages(reading.index, reading.positions) as encoded,
        contextlib.closing(encoded.read_batches(reading)) as batches,
    ):
        pipeline = _build(_inputs(batches, columns, reading.batch), len(columns), graph, reading, gpu)
        for start in range(0, len(reading.positions), reading.batch):
            # Given PyTorch's stream, DALI orders its work before what is queued there next, and the host need not wait.
            streams = () if gpu is None else (torch.cuda.current_stream(gpu),)
            try:
                images = pipeline.run(*streams)
            except RuntimeError as error:
                # DALI seldom names the file, and the failure may be in any batch that it has begun.
                ahead = reading.positions[start : start + (reading.loader.prefetch + 3) * reading.batch]
                if changed := changed_images(reading.index, ahead):
                    raise UserError(changed) from error
                raise
            # DALI's dynamic executor passes on the memory; it is not reused while a tensor refers to it.
            yield tuple(_as_tensors(image) for image in images)


def _inputs(batches: Iterator[list[Bytes]], columns: Columns, batch: int) -> Generator[tuple[Any, ...], None, None]:
    for number, images in enumerate(batches):
        rows = slice(number * batch, (number + 1) * batch)
        yield images, *(column[rows] for column in columns)


def _as_tensors(output: Any) -> CropImages:
    """Convert to channels first; images of several sizes become one tensor each."""
    if output.is_dense_tensor():
        return torch.utils.dlpack.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
    return tuple(torch.utils.dlpack.from_dlpack(output[row]).permute(2, 0, 1) for row in range(len(output)))


def _build(inputs: Iterator[Any], num_columns: int, graph: Graph, reading: Reading, gpu: int | None) -> Any:
    pipeline = Pipeline(
        batch_size=reading.batch,
        num_threads=reading.loader.threads,
        device_id=gpu,
        prefetch_queue_depth=reading.loader.prefetch,
        exec_dynamic=True,
    )
    with pipeline:
        # DALI's own readers open one file after another, or take tar files in no order of ours.
        pipeline.set_outputs(*graph(*fn.external_source(inputs, num_outputs=1 + num_columns, batch=True)))
    pipeline.build()
    return pipeline
