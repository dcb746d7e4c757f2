"""The loaders of the stages. Reading, decoding and planning run in threads, ahead of the training.

A loader has no random state and no position of its own to lose. The images of a step follow from `pipeline.data.order`,
their augmentation from `pipeline.data.augmentation`; so a loader can begin at any step, at any world size, and yields
exactly the rest of an uninterrupted one. It compares the content of each image with the index until the first full
epoch after a start has ended, its size ever after. Images that live in memory were compared at the start.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data.augmentation import check_sizes, draw_augmentation
from pipeline.data.background import Item, SideStream, run_ahead
from pipeline.data.batch import Batch, CropImages, PlanBatch
from pipeline.data.crop import Crop
from pipeline.data.decoding import check_decoder, decode_crops, decode_plan
from pipeline.data.encoded import Reading
from pipeline.data.index import ImageIndex
from pipeline.data.order import StreamOrder
from pipeline.data.sampling import sample_crops
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks

Integers = npt.NDArray[np.int64]

STREAM_VERSION = 2
"""Raised whenever the code changes the images of a step, or their augmentation."""
SEGMENT_IMAGES = 131_072
"""Images of this rank that are planned at once: bounds memory and start-up time for runs of any length."""


def build_train_loader(
    index: ImageIndex,
    config: Config,
    ranks: Ranks,
    device: torch.device,
    *,
    micro_batch: int,
    first_step: int,
    last_step: int,
) -> StreamLoader:
    """Build the loader of this rank's part of steps first_step to last_step - 1, counted from 0 over the whole run.

    `micro_batch` must divide the rank's part of the global batch. Labels, positions and angles are on the CPU (in
    pinned memory if `device` is a GPU), and so are images that were decoded there.
    """
    local_batch, rest = divmod(config.train.global_batch, ranks.world_size)
    assert rest == 0, "the ranks must share the global batch equally"
    assert local_batch % micro_batch == 0, "micro-batches must be equal"
    check_sizes(config.augmentation, index.heights, index.widths, config.train.image_size_px)
    check_decoder(config.loader, device)
    order = StreamOrder(len(index), config.train.global_batch, config.seed)
    return StreamLoader(index, config, order, ranks, device, micro_batch, first_step, last_step)


def build_plan_loader(
    index: ImageIndex,
    positions: Integers,
    crops: Sequence[Crop],
    batch: int,
    loader: LoaderConfig,
    device: torch.device,
) -> PlanLoader:
    """Build the loader of evaluation images: each position once, in order; the last batch may be smaller."""
    check_decoder(loader, device)
    at_once = batch * max(1, loader.decode_batch // (batch * len(crops)))
    reading = Reading(index, positions, at_once, loader, compared=len(positions))
    return PlanLoader(reading, tuple(crops), batch, device)


class _Loader:
    """An iterable that can be restarted, and closed half-way."""

    _running: weakref.ref[Generator[Any]] | None = None

    def close(self) -> None:
        """Release threads and buffers."""
        if self._running is not None and (running := self._running()) is not None:
            running.close()

    def _run(self, batches: Generator[Item]) -> Generator[Item]:
        """Return the iterator, after the end of an earlier one; only the caller holds it, and letting it go ends it.

        In a cycle with its loader it would be ended by the garbage collector, in any thread: also in one that holds a
        lock without which the threads that it waits for cannot end.
        """
        self.close()
        self._running = weakref.ref(batches)
        return batches


class StreamLoader(_Loader):
    """A `TrainLoader`: a rank's part of the endless stream of epochs, as equal micro-batches."""

    def __init__(
        self,
        index: ImageIndex,
        config: Config,
        order: StreamOrder,
        ranks: Ranks,
        device: torch.device,
        micro_batch: int,
        first_step: int,
        last_step: int,
    ) -> None:
        self._index = index
        self._config = config
        self._order = order
        self._ranks = ranks
        self._device = device
        self._micro_batch = micro_batch
        self._local_batch = order.global_batch // ranks.world_size
        self._start_at(first_step)
        self._last_step = last_step
        self._between_steps = True

    def __iter__(self) -> Iterator[Batch]:
        """Iterate from the next step to the last; an earlier iterator of this loader ends."""
        batches = self._run(self._stream())
        self._between_steps = True
        return batches

    def local_positions(self, first_step: int, end_step: int) -> tuple[Integers, Integers]:
        """Return positions and epochs of this rank's images in steps first_step to end_step - 1, in order.

        They are the rank-th slice of every step's images.
        """
        steps = np.arange(first_step, end_step, dtype=np.int64)
        first_places = steps * self._order.global_batch + self._ranks.rank * self._local_batch
        return self._order.images_at((first_places[:, None] + np.arange(self._local_batch)).ravel())

    def state_dict(self) -> dict[str, Any]:
        """Return the state; see `TrainLoader.state_dict`. It covers neither the world size nor the micro-batch."""
        assert self._between_steps, "state_dict in the middle of a step"
        return {"step": self._next_step, "index": self._index.digest, "stream_version": STREAM_VERSION}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state before iterating; see `TrainLoader.load_state_dict`."""
        for what, was, now in (
            ("other images (their index", state["index"][:10], self._index.digest[:10]),
            ("another order of the images (version", state["stream_version"], STREAM_VERSION),
        ):
            if was != now:
                raise UserError(
                    f"the checkpoint was made from {what} {was}, here {now}): put back what it was made from, or begin "
                    "anew with another --run"
                )
        self._start_at(state["step"])

    def _start_at(self, step: int) -> None:
        self._next_step = step
        self._compared_epochs = math.ceil(self._order.epoch_of(step)) + 1
        """Images of earlier epochs are compared with the index by their content."""

    def _stream(self) -> Generator[Batch]:
        first, micro_batches = self._next_step, self._local_batch // self._micro_batch
        stream, ahead = SideStream(self._device), max(1, self._config.loader.prefetch_images // self._micro_batch)
        with contextlib.closing(stream.hand_over(self._batches(first, stream), ahead, _images_of)) as batches:
            for taken, batch in enumerate(batches, 1):
                self._next_step = first + taken // micro_batches
                self._between_steps = taken % micro_batches == 0
                yield batch

    def _batches(self, first_step: int, stream: SideStream) -> Generator[Batch]:
        """Yield all batches, while another thread begins the next segment."""
        with contextlib.closing(run_ahead(self._segments(first_step), 1, "segment", stream)) as segments:
            for first, rest in segments:
                yield first
                yield from rest

    def _segments(self, first_step: int) -> Generator[tuple[Batch, Generator[Batch]]]:
        """Yield each segment when it is planned, its decoder built and its first batch decoded; then the rest of it."""
        steps_per_segment = max(1, SEGMENT_IMAGES // self._local_batch)
        for step in range(first_step, self._last_step, steps_per_segment):
            batches = self._segment(step, min(step + steps_per_segment, self._last_step))
            yield next(batches), batches

    def _segment(self, first_step: int, end_step: int) -> Generator[Batch]:
        """Yield the batches of the steps first_step to end_step - 1, planned at once."""
        positions, epochs = self.local_positions(first_step, end_step)
        heights, widths = self._index.heights[positions], self._index.widths[positions]
        config, size_px, micro_batch = self._config, self._config.train.image_size_px, self._micro_batch
        drawn = draw_augmentation(config.augmentation, config.seed, positions, epochs, heights, widths, size_px)
        sampling = sample_crops(config.augmentation, config.input, drawn, size_px, heights, widths)
        labels = self._index.labels[positions]
        compared = int(np.searchsorted(epochs, self._compared_epochs))
        at_once = micro_batch * max(1, config.loader.decode_batch // micro_batch)
        reading = Reading(self._index, positions, at_once, config.loader, compared)
        start = 0
        for decoded in decode_crops(reading, sampling, self._device):
            for first in range(0, len(decoded), micro_batch):
                rows = slice(start + first, start + first + micro_batch)
                hidden = sampling.hidden(rows, size_px)
                yield Batch(
                    images=_stage(decoded[first : first + micro_batch], self._device),
                    labels=_stage(torch.from_numpy(labels[rows]), self._device),
                    positions=_stage(torch.from_numpy(positions[rows]), self._device),
                    affine=_stage(sampling.affine_N23[rows], self._device),
                    size_px=size_px,
                    hidden=None if hidden is None else _stage(hidden, self._device),
                )
            start += len(decoded)


class PlanLoader(_Loader):
    """A repeatable iterable of `PlanBatch`, without randomness."""

    def __init__(self, reading: Reading, crops: tuple[Crop, ...], batch: int, device: torch.device) -> None:
        self._reading = reading
        self._crops = crops
        self._batch = batch
        self._device = device

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self._reading.positions) // self._batch)

    def __iter__(self) -> Iterator[PlanBatch]:
        """Iterate from the first position; an earlier iterator of this loader ends."""
        ahead = max(1, self._reading.loader.prefetch_images // (self._batch * len(self._crops)))
        return self._run(SideStream(self._device).hand_over(self._batches(), ahead, _images_of))

    def _batches(self) -> Generator[PlanBatch]:
        index, all_positions, start = self._reading.index, self._reading.positions, 0
        for decoded in decode_plan(self._reading, self._crops, self._device) if len(all_positions) else ():
            for first in range(0, len(decoded[0]), self._batch):
                crops = tuple(images[first : first + self._batch] for images in decoded)
                positions = all_positions[start : start + len(crops[0])]
                start += len(positions)
                yield PlanBatch(
                    crops=tuple(
                        _stage(images, self._device)
                        if isinstance(images, torch.Tensor)
                        else tuple(_stage(image, self._device) for image in images)
                        for images in crops
                    ),
                    labels=_stage(torch.from_numpy(index.labels[positions]), self._device),
                    positions=_stage(torch.from_numpy(positions), self._device),
                )


def _images_of(batch: Batch | PlanBatch) -> Iterator[torch.Tensor]:
    """Yield the tensors that may be on a GPU."""
    crops: tuple[CropImages, ...] = (batch.images,) if isinstance(batch, Batch) else batch.crops
    for images in crops:
        yield from (images,) if isinstance(images, torch.Tensor) else images


def _stage(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Pin the tensor if it has yet to go to a GPU, so that the copy does not block the host."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
