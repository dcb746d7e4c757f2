"""Every built-in plan by brute force: PIL decodes, resizes and crops, and the network sees one crop after the other."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.datasets
import torch
from PIL import Image

from pipeline.config.crop_plan import CropGroup, CropPlan, Position, Square, builtin_names, builtin_plan
from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.operations import LoaderConfig
from pipeline.data.batch import CropImages
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import count_crops, expand
from pipeline.evaluation.inference import PlanScorer, evaluating
from pipeline.models import create_model
from pipeline.models.network import Network
from tests.data.indexing import index_files

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PIXELS = InputConfig()
PLANS = tuple(builtin_plan(name) for name in builtin_names())
BY_HAND = {
    "bilinear_antialias": Image.Resampling.BILINEAR,
    "bicubic_antialias": Image.Resampling.BICUBIC,
}

Crop = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """A landscape, a portrait of odd sizes, and one that is nearly square: the two photographs of scikit-learn."""
    folder = tmp_path_factory.mktemp("photographs")
    china, flower = (Image.fromarray(sklearn.datasets.load_sample_image(f"{name}.jpg")) for name in ("china", "flower"))
    pictures = [
        china,
        flower.transpose(Image.Transpose.ROTATE_90).crop((0, 0, 411, 633)),
        flower.crop((90, 0, 516, 427)),
    ]
    files = [folder / f"{number}.JPEG" for number in range(len(pictures))]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file, quality=95)
    return index_files(files)


@pytest.fixture(scope="module")
def network() -> Network:
    """The small network of the real blocks, with answers that differ from image to image."""
    torch.manual_seed(7)
    model = create_model("senet_nano", 10, dropout=0.0, bn_momentum=1.0, seed=7)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64))
        model.last_linear.weight.normal_(0, 1)
    return model.eval()


def crops_by_hand(image: Image.Image, group: CropGroup, resampling: Image.Resampling) -> Iterator[Crop]:
    """Written down from the definition of a plan, in the plan's order, without mirror images."""
    scale = group.resize_px / min(image.size)
    width, height = (group.resize_px if side == min(image.size) else int(side * scale) for side in image.size)
    resized = image.resize((width, height), resampling)
    if group.dense is not None:
        yield np.array(resized)
        return
    for square in group.squares or (None,):
        for position in group.positions:
            yield np.array(crop_by_hand(resized, group, square, position, resampling))


def crop_by_hand(
    resized: Image.Image, group: CropGroup, square: Square | None, position: Position, resampling: Image.Resampling
) -> Image.Image:
    width, height = resized.size
    if square is not None:
        side, room = min(width, height), abs(width - height)
        start = {"first": 0, "middle": round(room / 2), "last": room}[square]
        left, top = (start, 0) if width > height else (0, start)
        resized = resized.crop((left, top, left + side, top + side))
        width = height = side
    assert group.crop_px is not None
    if position == "whole":
        return resized.resize((group.crop_px, group.crop_px), resampling)
    right, bottom = width - group.crop_px, height - group.crop_px
    left, top = {
        "top_left": (0, 0),
        "top_right": (right, 0),
        "bottom_left": (0, bottom),
        "bottom_right": (right, bottom),
        "center": (round(right / 2), round(bottom / 2)),
    }[position]
    return resized.crop((left, top, left + group.crop_px, top + group.crop_px))


def all_crops_by_hand(index: ImageIndex, plan: CropPlan, kernel: str = "bilinear_antialias") -> list[list[Crop]]:
    """For each crop of the plan each image's crop."""
    images = [Image.open(index.file(row)).convert("RGB") for row in range(len(index))]
    by_image = [
        [crop for group in plan.crops for crop in crops_by_hand(image, group, BY_HAND[kernel])] for image in images
    ]
    return [list(images) for images in zip(*by_image, strict=True)]


def taken_crops(
    index: ImageIndex, plan: CropPlan, backend: str, kernel: str = "bilinear_antialias"
) -> list[list[Crop]]:
    """The same by a loader, two images at a time."""
    crops = [seen.crop for seen in expand(plan, kernel)]  # type: ignore[arg-type]
    loader = LoaderConfig(backend=backend)  # type: ignore[arg-type]
    rows: list[list[Crop]] = [[] for _ in crops]
    for batch in build_plan_loader(index, np.arange(len(index)), crops, 2, loader, CPU):
        for row, images in zip(rows, batch.crops, strict=True):
            row.extend(image.permute(1, 2, 0).numpy() for image in images)
    return rows


def require_alike(ours: list[list[Crop]], theirs: list[list[Crop]], mean: float) -> None:
    for one, two in zip(ours, theirs, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.shape == b.shape
            assert np.abs(a.astype(int) - b.astype(int)).mean() < mean


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
# The difference of a pixel's offset is more than 2 of 255 in these photographs.
@pytest.mark.parametrize(("backend", "mean"), [("reference", 0.3), ("dali", 1.0)])
def test_crops_are_pils(photographs: ImageIndex, plan: CropPlan, backend: str, mean: float) -> None:
    require_alike(taken_crops(photographs, plan, backend), all_crops_by_hand(photographs, plan), mean)


@pytest.mark.parametrize(("backend", "mean"), [("reference", 0.3), ("dali", 1.0)])
def test_crops_of_imagenet_are_pils(shared_data: Path, tmp_path: Path, backend: str, mean: float) -> None:
    with tarfile.open(shared_data / "imagenet_sample.tar") as archive:
        members = [member for member in archive if member.name.endswith(".JPEG")][::80][:6]
        archive.extractall(tmp_path, members=members, filter="data")
    index = index_files(sorted(tmp_path.rglob("*.JPEG")))
    for name in ("144crop", "dense"):
        plan = builtin_plan(name)
        require_alike(taken_crops(index, plan, backend), all_crops_by_hand(index, plan), mean)


@pytest.mark.parametrize(("backend", "mean"), [("reference", 0.3), ("dali", 1.0)])
def test_bicubic_crops_are_pils(photographs: ImageIndex, backend: str, mean: float) -> None:
    plan = builtin_plan("center224")
    kernel = "bicubic_antialias"
    require_alike(taken_crops(photographs, plan, backend, kernel), all_crops_by_hand(photographs, plan, kernel), mean)


@pytest.mark.parametrize("backend", ["reference", "dali"])
def test_plain_bilinear_looks_at_the_four_nearest_pixels(photographs: ImageIndex, backend: str) -> None:
    plan = CropPlan(name="scaled", crops=(CropGroup(resize_px=160, dense="global"),))
    (images,) = taken_crops(photographs, plan, backend, "bilinear")
    for row, ours in enumerate(images):
        image = np.array(Image.open(photographs.file(row)).convert("RGB"), dtype=np.float64)
        corners = []
        for ours_px, px in zip(ours.shape[:2], image.shape[:2], strict=True):
            centre = ((np.arange(ours_px) + 0.5) * px / ours_px - 0.5).clip(0, px - 1)
            low = np.floor(centre).astype(int).clip(0, px - 2)
            corners.append((low, centre - low))
        (top, down), (left, right) = corners
        upper, lower = (
            image[rows][:, left] * (1 - right)[:, None] + image[rows][:, left + 1] * right[:, None]
            for rows in (top, top + 1)
        )
        expected = upper * (1 - down)[:, None, None] + lower * down[:, None, None]
        # Antialiasing makes 7 of it.
        assert np.abs(ours - expected).mean() < 1.0


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_scores_are_those_of_the_crops_one_by_one(photographs: ImageIndex, network: Network, plan: CropPlan) -> None:
    # One by one takes its time: several images, and so several sizes in a batch, only under plans of few crops.
    images = 1 if count_crops(plan) > 10 else 3
    crops = [each[:images] for each in all_crops_by_hand(photographs, plan)]
    require_scores_by_hand(network, plan, crops, batch=7)


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_weights_count_in_either_average(photographs: ImageIndex, network: Network, averaging: str) -> None:
    plan = CropPlan(
        name="weighted",
        averaging=averaging,  # type: ignore[arg-type]
        crops=(
            CropGroup(resize_px=64, crop_px=48, positions=("top_left", "center"), mirror=True, weight=0.5),
            CropGroup(resize_px=80, crop_px=48, squares=("first", "last"), positions=("whole",), weight=3.0),
            CropGroup(resize_px=224, dense="sliding"),
        ),
    )
    require_scores_by_hand(network, plan, all_crops_by_hand(photographs, plan), batch=2)


def require_scores_by_hand(network: Network, plan: CropPlan, crops: list[list[Crop]], batch: int) -> None:
    """The scorer's answer to these crops is that of double precision, each crop by itself."""
    preprocessor = Preprocessor(PIXELS, AugmentationConfig(), CPU, channels_last=True)
    scorer = PlanScorer(network, plan, ExecutionConfig(precision="float32"), preprocessor, CPU, batch)
    batches = tuple(as_batch(images) for images in crops)
    with evaluating(network):
        ours = scorer.log_probabilities(batches).double().numpy()
    groups = [group for group in plan.crops for _ in group.places()]
    answers, weights = [], []
    with torch.no_grad():
        for images, group in zip(crops, groups, strict=True):
            for mirrored in (False, True) if group.mirror else (False,):
                seen = [image[:, ::-1] if mirrored else image for image in images]
                answers.append([logits_by_hand(network, image, group) for image in seen])
                weights.append(group.weight)
    logits_VNK = torch.stack([torch.stack(answer) for answer in answers]).double()
    share_V11 = (torch.tensor(weights).double() / sum(weights))[:, None, None]
    if plan.averaging == "logits":
        expected = (share_V11 * logits_VNK).sum(0).softmax(1).log()
    else:
        expected = (share_V11 * logits_VNK.softmax(2)).sum(0).log()
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-4)


def as_batch(crops: list[Crop]) -> CropImages:
    images = tuple(torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops)
    return images if len({image.shape for image in images}) > 1 else torch.stack(images)


def logits_by_hand(network: Network, crop: Crop, group: CropGroup) -> torch.Tensor:
    pixels = (crop - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    image = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    if "sliding" not in (group.dense, group.pooling):
        return cast(torch.Tensor, network(image))[0]
    maps: list[torch.Tensor] = []
    hook = network.avg_pool.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    network(image)
    hook.remove()
    (features,) = maps
    height, width = features.shape[2:]
    maps_7x7 = [features[0, :, y : y + 7, x : x + 7] for y in range(height - 6) for x in range(width - 6)]
    assert len(maps_7x7) > 1
    return torch.stack([network.last_linear(each.mean((1, 2))) for each in maps_7x7]).mean(0)


def test_the_two_ways_to_pool_differ(photographs: ImageIndex, network: Network) -> None:
    crops = all_crops_by_hand(photographs, builtin_plan("dense"))
    preprocessor = Preprocessor(PIXELS, AugmentationConfig(), CPU, channels_last=True)
    with evaluating(network):
        globally, sliding = (
            PlanScorer(network, builtin_plan(name), ExecutionConfig(precision="float32"), preprocessor, CPU, 4)
            .log_probabilities((as_batch(crops[0]),))
            .exp()
            for name in ("dense", "dense_sliding")
        )
    assert (globally - sliding).abs().max() > 1e-3
