"""Alternative loaders: torchvision's two ways to decode, and timm's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from pipeline.bench.peer import import_peer
from pipeline.data.index import ImageIndex

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""On the scale from 0 to 1, as in torchvision's and timm's own examples."""

Decode = Callable[[str], Any]


def decode_by_torchvision(path: str) -> torch.Tensor:
    """Decode a file to (3, H, W) uint8."""
    image: torch.Tensor = decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
    return image


def decode_by_pil(path: str) -> Image.Image:
    """Decode a file to RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def training_transform(size_px: int, *, normalise: bool) -> v2.Compose:
    """Return random resized crop and mirroring, as in torchvision's reference scripts for ImageNet."""
    return v2.Compose([v2.RandomResizedCrop(size_px, antialias=True), v2.RandomHorizontalFlip(), *_finish(normalise)])


def centre_transform(resize_px: int, crop_px: int, *, normalise: bool = True) -> v2.Compose:
    """Return a resize of the shorter side to `resize_px`, then the centre crop."""
    return v2.Compose([v2.Resize(resize_px, antialias=True), v2.CenterCrop(crop_px), *_finish(normalise)])


def ten_crop_transform(resize_px: int, crop_px: int) -> v2.Compose:
    """Return the four corner crops, the centre, and all of them mirrored: (10, 3, crop_px, crop_px)."""
    return v2.Compose(
        [
            v2.Resize(resize_px, antialias=True),
            v2.TenCrop(crop_px),
            torch.stack,
            *_finish(normalise=True),
        ]
    )


def _finish(normalise: bool) -> list[v2.Transform]:
    if not normalise:
        return [v2.ToImage()]
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


class FileDataset(Dataset[tuple[torch.Tensor, int]]):
    """The images of an index, each decoded and transformed on access."""

    def __init__(self, index: ImageIndex, decode: Decode, transform: Callable[[Any], torch.Tensor]) -> None:
        self._files = [index.file(position) for position in range(len(index))]
        self._labels = index.labels.tolist()
        self._decode = decode
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._decode(self._files[position])), self._labels[position]


def torchvision_loader(
    index: ImageIndex, decode: Decode, transform: v2.Compose, *, batch: int, workers: int, shuffle: bool
) -> DataLoader[Any]:
    """Return PyTorch's loader with persistent worker processes."""
    dataset = FileDataset(index, decode, transform)
    return DataLoader(dataset, batch, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)


def timm_loader(
    index: ImageIndex, *, batch: int, workers: int, size_px: int, is_training: bool, crop_share: float | None = None
) -> Any:
    """Return timm's loader, with its own prefetcher, on the CPU; `crop_share` is crop by resized side, for the centre
    crop.

    Trains with random crops and mirroring alone: its default colour jitter is work that the others do not do.
    """
    data = import_peer("timm.data", "timm")
    samples = [(index.file(position), int(index.labels[position])) for position in range(len(index))]
    return data.create_loader(
        data.ImageDataset(".", reader=_Samples(samples)),
        input_size=(3, size_px, size_px),
        batch_size=batch,
        is_training=is_training,
        color_jitter=0.0,
        interpolation="bilinear",
        crop_pct=crop_share,
        num_workers=workers,
        persistent_workers=workers > 0,
        device=torch.device("cpu"),
    )


class _Samples:
    """The reader interface of timm's datasets: open files with their labels."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        path, label = self._samples[position]
        return open(path, "rb"), label
