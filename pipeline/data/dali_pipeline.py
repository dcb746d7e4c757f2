"""DALI pipelines over images read by our threads, each image with parameters; changed images are named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy.typing as npt
import torch
import torch.utils.dlpack
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray
from nvidia.dali.tensors import TensorCPU

from pipeline.config.operations import LoaderConfig
from pipeline.data.batch import CropImages
from pipeline.data.encoded import Bytes, EncodedImages, Reading
from pipeline.data.verification import changed_images
from pipeline.ground.errors import UserError

Columns = Sequence[npt.NDArray[Any]]
"""Parameters, a row for each image of the reading."""
Graph = Callable[..., list[Any]]
"""Makes the outputs from the encoded images and the columns."""

_QUEUE = 2
"""Batches in DALI's own queue: it works on the next while one is taken over."""


def decoder_arguments(loader: LoaderConfig, gpu: int | None, *, may_divide: bool) -> dict[str, Any]:
    """Return the arguments of a decoder: the pixels as stored, since ImageNet ignores EXIF's orientation.

    `may_divide`: whether a batch may be divided between two decoders of the GPU.
    """
    load = loader.hw_decoder_load
    on_gpu = {
        "device": "mixed",
        "jpeg_fancy_upsampling": loader.fancy_upsampling,
        "hw_decoder_load": load if may_divide else float(round(load)),
        "preallocate_width_hint": loader.preallocate_px,
        "preallocate_height_hint": loader.preallocate_px,
    }
    return {"output_type": types.RGB, "adjust_orientation": False, **({"device": "cpu"} if gpu is None else on_gpu)}


def decode_slices(files: Any, anchors: Any, shapes: Any, loader: LoaderConfig, gpu: int | None) -> Any:
    """Decode a part of each image."""
    arguments = decoder_arguments(loader, gpu, may_divide=True)
    return fn.decoders.image_slice(files, start=anchors, shape=shapes, axes=[0, 1], **arguments)


def decode_images(files: Any, loader: LoaderConfig, gpu: int | None) -> Any:
    """Decode whole images."""
    # An image's scores must be the same bits at any world size, so its pixels do not depend on its neighbours.
    return fn.decoders.image(files, **decoder_arguments(loader, gpu, may_divide=False))


def run_pipeline(reading: Reading, columns: Columns, graph: Graph, gpu: int | None) -> Iterator[tuple[CropImages, ...]]:
    """Run the graph over the images; the last batch may be smaller.

    On a GPU, the outputs are valid on the current stream of the thread that takes them. Raises UserError naming the
    images that differ from the index.
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
                ahead = reading.positions[start : start + (_QUEUE + 3) * reading.batch]
                if changed := changed_images(reading.index, ahead):
                    raise UserError(changed) from error
                raise
            yield tuple(map(_as_tensors, images))


def _inputs(batches: Iterator[list[Bytes]], columns: Columns, batch: int) -> Generator[tuple[Any, ...], None, None]:
    for number, images in enumerate(batches):
        rows = slice(number * batch, (number + 1) * batch)
        yield images, *(column[rows] for column in columns)


def _as_tensors(output: Any) -> CropImages:
    """Convert to channels first; images of several sizes become one tensor each."""
    if output.is_dense_tensor():
        return take_over(output.as_tensor()).permute(0, 3, 1, 2)
    return tuple(take_over(output[row]).permute(2, 0, 1) for row in range(len(output)))


def take_over(output: Any) -> torch.Tensor:
    """Convert a tensor of DALI's; in GPU memory it is copied, on the current stream.

    When DALI gets back GPU memory that was shared by DLPack, a thread of its own calls `cudaDeviceSynchronize`.
    """
    if isinstance(output, TensorCPU):
        # DALI's dynamic executor passes on the memory; it is not reused while a tensor refers to it.
        return torch.utils.dlpack.from_dlpack(output)
    device = torch.device("cuda", output.device_id())
    copy = torch.empty(output.shape(), dtype=torch.uint8, device=device)
    feed_ndarray(output, copy, cuda_stream=torch.cuda.current_stream(device))
    return copy


def _build(inputs: Iterator[Any], num_columns: int, graph: Graph, reading: Reading, gpu: int | None) -> Any:
    pipeline = Pipeline(
        batch_size=reading.batch,
        num_threads=reading.loader.threads,
        device_id=gpu,
        prefetch_queue_depth=_QUEUE,
        exec_dynamic=True,
    )
    with pipeline:
        # DALI's own readers open one file after another, or take tar files in no order of ours.
        pipeline.set_outputs(*graph(*fn.external_source(inputs, num_outputs=1 + num_columns, batch=True)))
    pipeline.build()
    return pipeline
