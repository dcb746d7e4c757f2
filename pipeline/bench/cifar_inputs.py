"""Ways to give a loop small images from memory: ours, a plain loop's, and torchvision's with PyTorch's loader."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pipeline.bench.cell import Cell
from pipeline.bench.setting import bench_config
from pipeline.config.data import InputConfig
from pipeline.config.schema import Config
from pipeline.data.cifar import SIDE_PX
from pipeline.data.index import ImageIndex, make_index
from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.data.places import Source
from pipeline.ground.ranks import Ranks

_PADDING_PX = 4
_PIXELS = InputConfig(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
Batches = Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""Gives so many batches of normalised images and labels."""


def noise(count: int) -> ImageIndex:
    """Return an index of random images in memory."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    labels = random.integers(0, 10, count)
    sides = np.full(count, SIDE_PX)
    names = [f"{number:05d}" for number in range(count)]
    columns = labels, np.full(count, 3 * SIDE_PX**2), sides, sides, np.zeros((count, 32)), np.zeros(count)
    index = make_index("train", "cifar10", (), names, *columns)
    return dataclasses.replace(index, source=Source("memory", Path(), None, lambda: pixels))


def cifar_config(model: str, batch: int, cell: Cell) -> Config:
    """Return the recipe of the benchmark: padded crops, and a step of one batch."""
    return bench_config(
        model=model,
        num_classes=10,
        batch=batch,
        image_size_px=SIDE_PX,
        execution=cell.execution,
        input=_PIXELS.model_dump(),
        augmentation={"crop": "padded", "padding_px": _PADDING_PX},
        native={"cuda_graphs": cell.cuda_graphs},
    )


def our_batches(index: ImageIndex, batch: int, device: torch.device, channels_last: bool) -> Batches:
    """Return the input of the training stage."""
    config = cifar_config("preresnet_nano", batch, Cell("float32", channels_last, compile=False))
    preprocessor = Preprocessor(config.input, config.augmentation, device, channels_last)

    def batches(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = build_train_loader(index, config, Ranks(), device, micro_batch=batch, first_step=0, last_step=steps)
        with contextlib.closing(loader):
            for taken in loader:
                yield preprocessor.training(taken), taken.labels.to(device, non_blocking=True)

    return batches


def plain_batches(index: ImageIndex, batch: int, device: torch.device, channels_last: bool, compiled: bool) -> Batches:
    """Return the input of a plain loop: padded bytes on the device, from which it gathers, mirrors and normalises."""
    assert index.source is not None
    pixels = torch.from_numpy(index.source.pixels).to(device)
    padded = nn.functional.pad(pixels, (0, 0, *((_PADDING_PX,) * 4)))
    labels = torch.from_numpy(index.labels).to(device)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_PIXELS.mean, _PIXELS.std))
    along = torch.arange(SIDE_PX, device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def augment(chosen: torch.Tensor, shifts: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        rows = shifts[0][:, None] + along
        columns = shifts[1][:, None] + torch.where(mirrored[:, None], along.flip(0), along)
        images = padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return ((images.float() - mean) / std).contiguous(memory_format=layout)

    transform = torch.compile(augment) if compiled else augment

    def batches(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(labels), device=device)
        for chosen in order[: steps * batch].view(steps, batch):
            shifts = torch.randint(2 * _PADDING_PX + 1, (2, batch), device=device)
            yield transform(chosen, shifts, torch.rand(batch, device=device) < 0.5), labels[chosen]

    return batches


def torchvision_batches(index: ImageIndex, batch: int, workers: int) -> Batches:
    """Return the usual input: torchvision's data set and transforms, in PyTorch's loader."""
    loader = DataLoader(
        _Pictures(index), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True
    )

    def batches(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number, taken in enumerate(loader, start=1):
            yield taken
            if number == steps:
                break

    return batches


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The images as torchvision.datasets.CIFAR10 yields them, with the transforms of its examples."""

    def __init__(self, index: ImageIndex) -> None:
        assert index.source is not None
        self._pixels, self._labels = index.source.pixels, index.labels.tolist()
        scaled = [[value / 255 for value in values] for values in (_PIXELS.mean, _PIXELS.std)]
        self._transform = v2.Compose(
            [
                v2.RandomCrop(SIDE_PX, padding=_PADDING_PX),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*scaled),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[position])), self._labels[position]
