"""The loaders, as the stages ask for them: DALI, or torchvision with the same contract (`loader.backend`).

A loader has no random state and no position of its own to lose. Which images a step sees follows from
`pipeline.data.order`, what is done to each from `pipeline.data.augmentation`; so a loader can begin at any step, at any
world size, and yields from there on exactly what an uninterrupted one would have.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data.augmentation import Augmentation, draw_augmentation
from pipeline.data.batch import Batch, CropImages, PlanBatch
from pipeline.data.crop import Crop
from pipeline.data.index import ImageIndex
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks

Integers = npt.NDArray[np.int64]

STREAM_VERSION = 2
"""Raised whenever the code changes which images a step sees, or what is done to them."""
SEGMENT_IMAGES = 131_072
"""Images of this rank that are planned at once: bounds memory and start-up time however long the run is."""


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
    """The loader of this rank's share of steps first_step to last_step - 1, counted from 0 over the whole run.

    `micro_batch` must divide the rank's share of the global batch. Labels, positions and angles lie on the CPU (in
    pinned memory where `device` is a GPU), and so do images that were decoded there.
    """
    local_batch, rest = divmod(config.train.global_batch, ranks.world_size)
    assert rest == 0, "the ranks must share the global batch equally"
    assert local_batch % micro_batch == 0, "micro-batches must be equal"
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
    """The loader of evaluation images: each position once, in the order given, the last batch as small as it comes."""
    return PlanLoader(index, positions, tuple(crops), batch, loader, device, _decoding_gpu(loader, device))


class StreamLoader:
    """A `TrainLoader`: a rank's share of the endless stream of epochs, as equal micro-batches."""

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
        self._next_step = first_step
        self._last_step = last_step
        self._between_steps = True
        self._running: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """From the next step to the last; an earlier iterator of this loader ends."""
        self.close()
        self._between_steps = True
        self._running = self._stream()
        return self._running

    def local_positions(self, first_step: int, end_step: int) -> tuple[Integers, Integers]:
        """Positions and epochs of this rank's images in steps first_step to end_step - 1, in the order they are seen.

        Of every step's images the rank-th slice.
        """
        steps = np.arange(first_step, end_step, dtype=np.int64)
        first_places = steps * self._order.global_batch + self._ranks.rank * self._local_batch
        return self._order.images_at((first_places[:, None] + np.arange(self._local_batch)).ravel())

    def state_dict(self) -> dict[str, Any]:
        """See `TrainLoader.state_dict`. Neither the world size nor the micro-batch is part of it."""
        assert self._between_steps, "state_dict in the middle of a step"
        return {"next_step": self._next_step, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TrainLoader.load_state_dict`; before iterating."""
        was, now = state["fingerprint"], self._fingerprint()
        differences = [
            f"{name}: was {was.get(name, 'absent')}, is {now.get(name, 'absent')}"
            for name in {**was, **now}
            if was.get(name) != now.get(name)
        ]
        if differences:
            raise UserError(
                "the checkpoint was taken on another stream of images, so going on would repeat some and lose others:\n"
                + "\n".join(f"  {difference}" for difference in differences)
                + "\nrestore these, or start a new run"
            )
        self._next_step = state["next_step"]

    def close(self) -> None:
        """Release threads and buffers."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _fingerprint(self) -> dict[str, Any]:
        """Everything that decides what this loader reads, as it looks after a round trip through JSON."""
        augmentation = {
            f"augmentation.{name}": list(value) if isinstance(value, tuple) else value
            for name, value in self._config.augmentation.model_dump().items()
        }
        versions = {}
        if self._gpu is None:
            versions["torch"] = str(torch.__version__)
        if self._config.loader.backend == "dali":
            import nvidia.dali

            # Not from the metadata: the distribution is called after the CUDA release it is built for.
            versions["nvidia-dali"] = nvidia.dali.__version__
        else:
            versions["torchvision"] = importlib.metadata.version("torchvision")
        return {
            "index": self._index.digest,
            "images": len(self._index),
            "seed": self._config.seed,
            "train.global_batch": self._order.global_batch,
            "train.image_size_px": self._config.train.image_size_px,
            **augmentation,
            "loader.backend": self._config.loader.backend,
            "loader.decode": "cpu" if self._gpu is None else "gpu",
            **versions,
            "stream_version": STREAM_VERSION,
        }

    def _stream(self) -> Generator[Batch, None, None]:
        steps_per_segment = max(1, SEGMENT_IMAGES // self._local_batch)
        while self._next_step < self._last_step:
            end = min(self._next_step + steps_per_segment, self._last_step)
            yield from self._segment(self._next_step, end)

    def _segment(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """The steps first_step to end_step - 1, planned at once."""
        positions, epochs = self.local_positions(first_step, end_step)
        heights, widths = self._index.heights[positions], self._index.widths[positions]
        augmentation = draw_augmentation(
            self._config.augmentation, self._config.seed, positions, epochs, heights, widths
        )
        labels = self._index.labels[positions]
        for number, images in enumerate(self._decode(positions, augmentation)):
            rows = slice(number * self._micro_batch, (number + 1) * self._micro_batch)
            taken = rows.stop // self._local_batch
            self._next_step = first_step + taken
            self._between_steps = rows.stop % self._local_batch == 0
            yield Batch(
                images=_stage(images, self._device),
                labels=_stage(torch.from_numpy(labels[rows]), self._device),
                positions=_stage(torch.from_numpy(positions[rows]), self._device),
                angles=_stage(torch.from_numpy(augmentation.angles[rows]), self._device),
            )

    def _decode(self, positions: Integers, augmentation: Augmentation) -> Iterator[torch.Tensor]:
        size_px, loader = self._config.train.image_size_px, self._config.loader
        if loader.backend == "dali":
            from pipeline.data import dali

            return dali.decode_crops(
                self._index, positions, augmentation, size_px, self._micro_batch, loader, self._gpu
            )
        from pipeline.data import reference

        return reference.decode_crops(self._index, positions, augmentation, size_px, self._micro_batch, loader)


class PlanLoader:
    """An iterable of `PlanBatch`; it can be iterated more than once, and nothing about it is random."""

    def __init__(
        self,
        index: ImageIndex,
        positions: Integers,
        crops: tuple[Crop, ...],
        batch: int,
        loader: LoaderConfig,
        device: torch.device,
        gpu: int | None,
    ) -> None:
        self._index = index
        self._positions = positions
        self._crops = crops
        self._batch = batch
        self._loader = loader
        self._device = device
        self._gpu = gpu
        self._running: Generator[PlanBatch, None, None] | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._positions) // self._batch)

    def __iter__(self) -> Iterator[PlanBatch]:
        """From the first position; an earlier iterator of this loader ends."""
        self.close()
        self._running = self._stream()
        return self._running

    def close(self) -> None:
        """Release threads and buffers."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _stream(self) -> Generator[PlanBatch, None, None]:
        start = 0
        for crops in self._decode() if len(self._positions) else ():
            positions = self._positions[start : start + len(crops[0])]
            start += len(positions)
            yield PlanBatch(
                crops=tuple(_stage_images(images, self._device) for images in crops),
                labels=_stage(torch.from_numpy(self._index.labels[positions]), self._device),
                positions=_stage(torch.from_numpy(positions), self._device),
            )

    def _decode(self) -> Iterator[tuple[CropImages, ...]]:
        request = self._index, self._positions, self._crops, self._batch, self._loader
        if self._loader.backend == "dali":
            from pipeline.data import dali

            return dali.decode_plan(*request, self._gpu)
        from pipeline.data import reference

        return reference.decode_plan(*request)


def _decoding_gpu(loader: LoaderConfig, device: torch.device) -> int | None:
    """The number of the GPU to decode on, or None for the CPU. UserError where a GPU is asked for in vain."""
    if loader.decode == "gpu" and loader.backend == "reference":
        raise UserError("loader.decode: the reference loader decodes on the CPU; use auto or cpu (given gpu)")
    if loader.decode == "gpu" and device.type != "cuda":
        raise UserError("loader.decode: no GPU is visible to this process; use auto or cpu (given gpu)")
    if loader.decode == "cpu" or loader.backend == "reference" or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _stage(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor in pinned memory where it has yet to go to a GPU, so that the copy need not stop the host."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def _stage_images(images: CropImages, device: torch.device) -> CropImages:
    if isinstance(images, torch.Tensor):
        return _stage(images, device)
    return tuple(_stage(image, device) for image in images)
