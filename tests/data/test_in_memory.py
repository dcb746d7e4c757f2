"""Images in memory: the batches of files with the same pixels, at any world size, resumed anywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.config.data import AugmentationConfig
from pipeline.config.operations import LoaderConfig
from pipeline.config.schema import Config
from pipeline.data.augmentation import draw_augmentation
from pipeline.data.batch import Batch
from pipeline.data.crop import Crop
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import StreamLoader, build_plan_loader, build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.data.order import StreamOrder
from pipeline.data.places import Source
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from tests.data.indexing import index_files, picture
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
    augmentation = {"pixel_jitter": 0.0, "rotation_degrees": 0.0, **augmentation}
    return small_recipe(files.source.folder, augmentation=augmentation, loader={"backend": "reference"})


def inputs(batches: Iterable[Batch], config: Config) -> list[tuple[int, int, bytes]]:
    """Position, label and the network's input for every image, in order."""
    preprocessor, found = Preprocessor(config.input, config.augmentation, CPU, True), []
    for batch in batches:
        rows = zip(batch.positions.tolist(), batch.labels.tolist(), preprocessor.training(batch), strict=True)
        found += [(position, label, image.numpy().tobytes()) for position, label, image in rows]
    return found


AUGMENTATIONS: list[dict[str, Any]] = [
    {"rotation_degrees": 5.0},
    {"crop": "padded", "cutout_px": 8},
    {"rotation_degrees": 10.0, "rotate": "before_crop"},
    {"interpolation": "bicubic", "area": (0.4, 1.0)},
]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_batches_are_those_of_files_with_the_same_pixels(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any]
) -> None:
    config = recipe(files, **augmentation)
    assert inputs(train_loader(index, config), config) == inputs(train_loader(files, config), config)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
@pytest.mark.parametrize("world_size", LOCAL)
def test_a_steps_images_do_not_depend_on_the_world_size(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any], world_size: int
) -> None:
    config, local = recipe(files, **augmentation), LOCAL[world_size]
    ranks = [Ranks(rank, rank, world_size) for rank in range(world_size)]
    shares = [inputs(train_loader(index, config, rank, local // 2), config) for rank in ranks]
    steps = [image for step in range(5) for share in shares for image in share[step * local : (step + 1) * local]]
    assert steps == inputs(train_loader(index, config), config)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_a_resumed_loader_yields_exactly_the_rest(
    files: ImageIndex, index: ImageIndex, augmentation: dict[str, Any]
) -> None:
    config = recipe(files, **augmentation)
    first, resumed = train_loader(index, config), train_loader(index, config, micro_batch=12)
    running = iter(first)
    before = inputs([next(running) for _ in range(2 * 3)], config)
    resumed.load_state_dict(first.state_dict())
    assert before + inputs(resumed, config) == inputs(train_loader(index, config), config)


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


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_padded_crops_and_cutout_are_those_of_the_papers_code(index: ImageIndex, padding: str) -> None:
    """Written out: normalise, pad by zeros or by reflection, crop, flip, then zero a clipped square (Cutout)."""
    augmentation = {"crop": "padded", "padding": padding, "cutout_px": 16, "rotation_degrees": 0.0, "pixel_jitter": 0.0}
    data, model = {"dataset": "cifar10"}, {"num_classes": 10}
    config = small_recipe(Path("/data"), data=data, model=model, augmentation=augmentation)
    preprocessor = Preprocessor(config.input, config.augmentation, CPU, True)
    found = torch.cat([preprocessor.training(batch) for batch in train_loader(index, config)])
    positions, epochs = StreamOrder(NUM_IMAGES, 24, config.seed).images_at(np.arange(5 * 24))
    sides = np.full(len(positions), 32)
    drawn = draw_augmentation(config.augmentation, config.seed, positions, epochs, sides, sides, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.input.mean, config.input.std))
    for row, position in enumerate(positions.tolist()):
        image = (torch.from_numpy(index.source.pixels[position]).permute(2, 0, 1).float() - mean) / std
        image = F.pad(image[None], (4, 4, 4, 4), "reflect" if padding == "reflect" else "constant")[0]
        top, left = int(drawn.tops[row]) + 4, int(drawn.lefts[row]) + 4
        image = image[:, top : top + 32, left : left + 32]
        image = image.flip(2) if drawn.mirrored[row] else image.clone()
        y, x = drawn.cut_N2[row].tolist()
        image[:, max(y - 8, 0) : min(y + 8, 32), max(x - 8, 0) : min(x + 8, 32)] = 0
        torch.testing.assert_close(found[row], image, atol=1e-6, rtol=1e-6)


def test_places_of_crops_and_of_cutout_are_uniform() -> None:
    config, count, sides = AugmentationConfig(crop="padded", cutout_px=16), 20_000, np.full(20_000, 32)
    drawn = draw_augmentation(config, 1, np.arange(count), np.zeros(count, np.int64), sides, sides, 32)
    for places, low, number in ((drawn.tops, -4, 9), (drawn.lefts, -4, 9), *((cut, 0, 32) for cut in drawn.cut_N2.T)):
        counts = np.bincount(places - low)
        assert len(counts) == number
        assert np.abs(counts * number / count - 1).max() < 0.2
    assert abs(np.corrcoef([drawn.tops, drawn.lefts, *drawn.cut_N2.T]) - np.eye(4)).max() < 0.03


def test_images_that_are_too_small_for_a_padded_crop_are_refused(index: ImageIndex) -> None:
    config = recipe(index, crop="padded", padding_px=2)
    config = config.model_copy(update={"train": config.train.model_copy(update={"image_size_px": 40})})
    with pytest.raises(UserError, match=r"padding_px: crops of 40 px with a zero padding of 2 px need images of 36 px"):
        list(train_loader(index, config))
