"""Pictures of all kinds, decoded and cropped on a GPU. Skipped without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.operations import LoaderConfig
from pipeline.data import loaders
from pipeline.data.background import SideStream, run_ahead
from pipeline.data.batch import Batch
from pipeline.data.crop import Crop
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import PlanLoader, StreamLoader, build_plan_loader, build_train_loader
from pipeline.ground.ranks import Ranks
from tests.data.indexing import index_files
from tests.data.odd_images import encode, four_inks, picture
from tests.recipes import small_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]

DEVICE = torch.device("cuda", 0)
BATCH, STEPS = 8, 6
KINDS = {
    "420": lambda seed: encode(picture(500, 375, seed), "JPEG", quality=90, subsampling="4:2:0"),
    "422": lambda seed: encode(picture(375, 500, seed), "JPEG", quality=90, subsampling="4:2:2"),
    "444": lambda seed: encode(picture(500, 333, seed), "JPEG", quality=95, subsampling="4:4:4"),
    "grey": lambda seed: encode(picture(500, 375, seed).convert("L"), "JPEG", quality=90),
    "cmyk": lambda seed: encode(four_inks(picture(500, 375, seed)), "JPEG", quality=90),
    "progressive": lambda seed: encode(picture(500, 375, seed), "JPEG", quality=90, progressive=True),
    "large": lambda seed: encode(picture(4000, 3000, seed), "JPEG", quality=90),
    "tiny": lambda seed: encode(picture(40, 31, seed), "JPEG", quality=90),
}
CROPS = [Crop(256, 224, "center"), Crop(256, 224, "top_left"), Crop(256, 224, "whole", "last"), Crop(64, None, None)]
ALLOWED = 3.0
"""Mean difference of bytes: nvJPEG's inverse transform and chroma upsampling round differently from libjpeg-turbo's."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Three images of each kind, a kind after the other within each three."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for seed in range(3):
        for kind, made in KINDS.items():
            files.append(folder / f"{seed}-{kind}.jpg")
            files[-1].write_bytes(made(seed))
    return index_files(files)


def kind_of(index: ImageIndex, position: int) -> str:
    return Path(index.names[position]).stem.partition("-")[2]


def train_loader(index: ImageIndex, **loader: str) -> StreamLoader:
    train = {"global_batch": BATCH, "max_micro_batch": BATCH, "image_size_px": 224}
    config = small_recipe(Path("unused"), train=train, loader=loader)
    return build_train_loader(index, config, Ranks(), DEVICE, micro_batch=BATCH, first_step=0, last_step=STEPS)


def plan_loader(index: ImageIndex, **loader: str) -> PlanLoader:
    return build_plan_loader(index, np.arange(len(index)), CROPS, 7, LoaderConfig.model_validate(loader), DEVICE)


def batches_of(loader: StreamLoader) -> list[Batch]:
    with contextlib.closing(loader):
        return list(loader)


def test_training_crops_on_the_gpu_show_what_the_reference_shows(index: ImageIndex) -> None:
    ours, reference = (batches_of(train_loader(index, **how)) for how in ({}, {"backend": "reference"}))
    seen = set()
    for batch, expected in zip(ours, reference, strict=True):
        assert batch.images.device == DEVICE
        assert batch.positions.tolist() == expected.positions.tolist()
        distances = (batch.images.cpu().float() - expected.images.float()).abs().mean((1, 2, 3))
        for position, distance in zip(batch.positions.tolist(), distances.tolist(), strict=True):
            assert distance < ALLOWED, (index.names[position], distance)
            seen.add(kind_of(index, position))
    assert seen == KINDS.keys()


def test_crops_of_an_evaluation_on_the_gpu_show_what_those_of_the_cpu_show(index: ImageIndex) -> None:
    shown: dict[str, list[torch.Tensor]] = {}
    for decode in ("gpu", "cpu"):
        batches = list(plan_loader(index, decode=decode))
        assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(len(index)))
        crops = ([image for batch in batches for image in batch.crops[number]] for number in range(len(CROPS)))
        shown[decode] = [image.cpu().float() for images in crops for image in images]
    for number, (on_gpu, on_cpu) in enumerate(zip(shown["gpu"], shown["cpu"], strict=True)):
        assert on_gpu.shape == on_cpu.shape
        distance = float((on_gpu - on_cpu).abs().mean())
        assert distance < ALLOWED, (index.names[number % len(index)], CROPS[number // len(index)], distance)


def test_two_pipelines_at_once_yield_what_each_yields_alone(index: ImageIndex) -> None:
    """A validation begins while training images are decoded ahead."""
    alone = batches_of(train_loader(index))
    crops_alone = list(plan_loader(index))
    with contextlib.closing(train_loader(index)) as training, contextlib.closing(plan_loader(index)) as evaluating:
        stream: Iterator[Batch] = iter(training)
        together, crops_together = [], []
        for batch in evaluating:
            crops_together.append(batch)
            together.append(next(stream))
        together += stream
    assert all(torch.equal(one.images, other.images) for one, other in zip(alone, together, strict=True))
    for one, other in zip(crops_alone, crops_together, strict=True):
        for images, others in zip(one.crops, other.crops, strict=True):
            assert all(torch.equal(image, same) for image, same in zip(images, others, strict=True))


def test_what_one_loader_has_freed_on_its_stream_serves_the_next() -> None:
    streams = []
    for _ in range(2):
        side = SideStream(DEVICE)
        streams += run_ahead((torch.cuda.current_stream(DEVICE) for _ in range(1)), 1, "test", side)
    assert streams[0] == streams[1] != torch.cuda.current_stream(DEVICE)


def test_a_new_segment_begins_where_the_last_one_has_ended(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches_of(train_loader(index))
    monkeypatch.setattr(loaders, "SEGMENT_IMAGES", 2 * BATCH)
    parts = batches_of(train_loader(index))
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.images, other.images)
