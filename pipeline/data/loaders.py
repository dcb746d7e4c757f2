"""The loaders of the stages: DALI, or torchvision with the same contract (`loader.backend`).

A loader has no random state and no position of its own to lose. The images of a step follow from `pipeline.data.order`,
their augmentation from `pipeline.data.augmentation`; so a loader can begin at any step, at any world size, and yields
exactly the rest of an uninterrupted one. It compares the content of each image with the index until the first full
epoch after a start has ended, its size ever after. Images that live in memory were compared at the start.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data import in_memory
from pipeline.data.augmentation import check_sizes, draw_augmentation
from pipeline.data.batch import Batch, CropImages, PlanBatch
from pipeline.data.crop import Crop
from pipeline.data.encoded import Reading
from pipeline.data.index import ImageIndex
from pipeline.data.order import StreamOrder
from pipeline.data.sampling import Sampling, sample_crops
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
    gpu = _decoding_gpu(config.loader, device)
    order = StreamOrder(len(index), config.train.global_batch, config.seed)
    return StreamLoader(index, config, order, ranks, device, gpu, micro_batch, first_step, last_step)


def build_plan_loader(
    index: ImageIndex,
    positions: Integers,
    crops: Sequence[Crop],
    batch: int,
    loader: LoaderConfig,
    device: torch.device,
) -> PlanLoader:
    """Build the loader of evaluation images: each position once, in order; the last batch may be smaller."""
    reading = Reading(index, positions, batch, loader, compared=len(positions))
    return PlanLoader(reading, tuple(crops), device, _decoding_gpu(loader, device))


class _Loader:
    """An iterable that can be restarted, and closed half-way."""

    _running: Generator[Any, None, None] | None = None

    def close(self) -> None:
        """Release threads and buffers."""
        if self._running is not None:
            self._running.close()
            self._running = None


class StreamLoader(_Loader):
    """A `TrainLoader`: a rank's part of the endless stream of epochs, as equal micro-batches."""

    def __init__(
        self,
        index: ImageIndex,
        config: Config,
        order: StreamOrder,
        ranks: Ranks,
        device: torch.device,
        gpu: int | None,
        micro_batch: int,
        first_step: int,
        last_step: int,
    ) -> None:
        self._index = index
        self._config = config
        self._order = order
        self._ranks = ranks
        self._device = device
        self._gpu = gpu
        self._micro_batch = micro_batch
        self._local_batch = order.global_batch // ranks.world_size
        self._start_at(first_step)
        self._last_step = last_step
        self._between_steps = True

    def __iter__(self) -> Iterator[Batch]:
        """Iterate from the next step to the last; an earlier iterator of this loader ends."""
        self.close()
        self._between_steps = True
        self._running = self._stream()
        return self._running

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

    def _stream(self) -> Generator[Batch, None, None]:
        steps_per_segment = max(1, SEGMENT_IMAGES // self._local_batch)
        while self._next_step < self._last_step:
            end = min(self._next_step + steps_per_segment, self._last_step)
            yield from self._segment(self._next_step, end)

    def _segment(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """Yield the steps first_step to end_step - 1, planned at once."""
        positions, epochs = self.local_positions(first_step, end_step)
        heights, widths = self._index.heights[positions], self._index.widths[positions]
        config, size_px = self._config, self._config.train.image_size_px
        drawn = draw_augmentation(config.augmentation, config.seed, positions, epochs, heights, widths, size_px)
        sampling = sample_crops(config.augmentation, config.input, drawn, size_px, heights, widths)
        labels = self._index.labels[positions]
        compared = int(np.searchsorted(epochs, self._compared_epochs))
        reading = Reading(self._index, positions, self._micro_batch, config.loader, compared)
        for number, images in enumerate(self._decode(reading, sampling)):
            rows = slice(number * self._micro_batch, (number + 1) * self._micro_batch)
            taken = rows.stop // self._local_batch
            self._next_step = first_step + taken
            self._between_steps = rows.stop % self._local_batch == 0
            yield Batch(
                images=_stage(images, self._device),
                labels=_stage(torch.from_numpy(labels[rows]), self._device),
                positions=_stage(torch.from_numpy(positions[rows]), self._device),
                affine=_stage(sampling.affine_N23[rows], self._device),
                size_px=size_px,
                hidden=None if (hidden := sampling.hidden(rows, size_px)) is None else _stage(hidden, self._device),
            )

    def _decode(self, reading: Reading, sampling: Sampling) -> Iterator[torch.Tensor]:
        if reading.is_in_memory:
            return in_memory.decode_crops(reading, sampling, self._device)
        if reading.loader.backend == "dali":
            from pipeline.data import dali

            return dali.decode_crops(reading, sampling, self._gpu)
        from pipeline.data import reference

        return reference.decode_crops(reading, sampling)


class PlanLoader(_Loader):
    """A repeatable iterable of `PlanBatch`, without randomness."""

    def __init__(self, reading: Reading, crops: tuple[Crop, ...], device: torch.device, gpu: int | None) -> None:
        self._reading = reading
        self._crops = crops
        self._device = device
        self._gpu = gpu

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self._reading.positions) // self._reading.batch)

    def __iter__(self) -> Iterator[PlanBatch]:
        """Iterate from the first position; an earlier iterator of this loader ends."""
        self.close()
        self._running = self._stream()
        return self._running

    def _stream(self) -> Generator[PlanBatch, None, None]:
        start, all_positions = 0, self._reading.positions
        for crops in self._decode() if len(all_positions) else ():
            positions = all_positions[start : start + len(crops[0])]
            start += len(positions)
            yield PlanBatch(
                crops=tuple(
                    _stage(images, self._device)
                    if isinstance(images, torch.Tensor)
                    else tuple(_stage(image, self._device) for image in images)
                    for images in crops
                ),
                labels=_stage(torch.from_numpy(self._reading.index.labels[positions]), self._device),
                positions=_stage(torch.from_numpy(positions), self._device),
            )

    def _decode(self) -> Iterator[tuple[CropImages, ...]]:
        if self._reading.is_in_memory:
            return in_memory.decode_plan(self._reading, self._crops, self._device)
        if self._reading.loader.backend == "dali":
            from pipeline.data import dali

            return dali.decode_plan(self._reading, self._crops, self._gpu)
        from pipeline.data import reference

        return reference.decode_plan(self._reading, self._crops)


def _decoding_gpu(loader: LoaderConfig, device: torch.device) -> int | None:
    """Return the number of the GPU to decode on, or None for the CPU. Raises UserError if there is no GPU to do it."""
    if loader.decode == "gpu" and loader.backend == "reference":
        raise UserError("loader.decode: the reference loader decodes on the CPU; use auto or cpu (given gpu)")
    if loader.decode == "gpu" and device.type != "cuda":
        raise UserError("loader.decode: no GPU is visible to this process; use auto or cpu (given gpu)")
    if loader.decode == "cpu" or loader.backend == "reference" or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _stage(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Pin the tensor if it has yet to go to a GPU, so that the copy does not block the host."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
