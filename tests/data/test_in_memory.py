"""Images in memory: the batches of files with the same pixels, at any world size, resumed anywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data.crop import Crop
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import StreamLoader, build_plan_loader, build_train_loader
from pipeline.data.places import Source
from pipeline.ground.ranks import Ranks
from tests.data.indexing import index_files, picture
from tests.data.test_loaders import contents
from tests.recipes import small_recipe

CPU = torch.device("cpu")
NUM_IMAGES = 50
LOCAL = {1: 24, 2: 12, 3: 8}
"""Images a process in each step, by world size."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """PNGs, which keep every pixel."""
    folder = tmp_path_factory.mktemp("png")
    for number in range(NUM_IMAGES):
        picture(32, 32, number).save(folder / f"{number:05d}.png")
    return index_files(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def index(files: ImageIndex) -> ImageIndex:
    pixels = np.stack([np.asarray(picture(32, 32, number)) for number in range(NUM_IMAGES)])
    return dataclasses.replace(files, source=Source("memory", Path("/archive"), None, lambda: pixels))


def train_loader(index: ImageIndex, config: Config, ranks: Ranks = Ranks(), micro_batch: int = 8) -> StreamLoader:  # noqa: B008
    return build_train_loader(index, config, ranks, CPU, micro_batch=micro_batch, first_step=0, last_step=5)


def recipe(files: ImageIndex, **augmentation: Any) -> Config:
    assert files.source is not None
    return small_recipe(files.source.folder, augmentation=augmentation, loader={"backend": "reference"})


AUGMENTATIONS: list[dict[str, Any]] = [
    {},
    {"rotation_degrees": 10.0, "rotate": "before_crop"},
    {"interpolation": "bicubic", "area": (0.4, 1.0)},
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_batches_are_those_of_files_with_the_same_pixels(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any]
) -> None:
    config = recipe(files, **augmentation)
    assert contents(list(train_loader(index, config))) == contents(list(train_loader(files, config)))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
@pytest.mark.parametrize("world_size", LOCAL)
def test_a_steps_images_do_not_depend_on_the_world_size(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any], world_size: int
) -> None:
    config, local = recipe(files, **augmentation), LOCAL[world_size]
    ranks = [Ranks(rank, rank, world_size) for rank in range(world_size)]
    shares = [contents(list(train_loader(index, config, rank, local // 2))) for rank in ranks]
    steps = [image for step in range(5) for share in shares for image in share[step * local : (step + 1) * local]]
    assert steps == contents(list(train_loader(index, config)))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_a_resumed_loader_yields_exactly_the_rest(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any]
) -> None:
    config = recipe(files, **augmentation)
    first, resumed = train_loader(index, config), train_loader(index, config, micro_batch=12)
    running = iter(first)
    before = contents([next(running) for _ in range(2 * 3)])
    resumed.load_state_dict(first.state_dict())
    assert before + contents(list(resumed)) == contents(list(train_loader(index, config)))


@pytest.mark.parametrize(
    "crops",
    [
        (Crop(32, 32, "center"),),
        (Crop(36, 32, "center"), Crop(36, 32, "top_left")),
        (Crop(32, 32, "center"), Crop(48, None)),
    ],
    ids=["whole", "resized", "two sizes"],
)
def test_crops_of_an_evaluation_are_those_of_files(
    files: ImageIndex, index: ImageIndex, crops: tuple[Crop, ...]
) -> None:
    positions = np.random.default_rng(1).permutation(NUM_IMAGES)[:11]
    both = [
        list(build_plan_loader(which, positions, crops, 4, LoaderConfig(backend="reference"), CPU))
        for which in (index, files)
    ]
    assert [len(batch.positions) for batch in both[0]] == [4, 4, 3]
    for ours, theirs in zip(*both, strict=True):
        assert torch.equal(ours.positions, theirs.positions)
        assert torch.equal(ours.labels, theirs.labels)
        for crop, other in zip(ours.crops, theirs.crops, strict=True):
            assert isinstance(crop, torch.Tensor)
            assert torch.equal(crop, other)
            assert crop.is_contiguous(memory_format=torch.channels_last)
