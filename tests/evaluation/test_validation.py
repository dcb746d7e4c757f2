from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.index import ImageIndex
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.validation import Validation, validate
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.weights import load_weights
from tests.evaluation.small_run import (
    CENTER,
    NUM_CLASSES,
    NUM_IMAGES,
    make_config,
    make_run,
    read_index,
    validate_at,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    make_run(folder)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> ImageIndex:
    return read_index(folder / "run", make_config(folder))


@pytest.fixture
def model(folder: Path) -> Network:
    model = create_model("senet_nano", NUM_CLASSES)
    load_weights(model, folder / "weights.safetensors")
    return model


def validate_alone(folder: Path, index: ImageIndex, model: Network, **train: object) -> Validation:
    config = make_config(folder)
    config = config.model_copy(update={"train": config.train.model_copy(update=train)})
    preprocessor = Preprocessor(config.input, config.augmentation, torch.device("cpu"), channels_last=True)
    return validate(model, index, CENTER, config, Collective(Ranks(), 60), preprocessor)


def test_answer_is_the_same_to_the_last_bit_at_world_sizes_1_2_3_and_5(folder: Path) -> None:
    # 37 images in batches of 5: 8 batches, the last of 2 images; no world size but 2 divides them.
    answers = {world_size: validate_at(folder, folder / "run", world_size) for world_size in (1, 2, 3, 5)}
    (alone,) = answers[1]
    assert alone["images"] == NUM_IMAGES
    for world_size, said in answers.items():
        assert said == [alone] * world_size


def test_a_rank_without_any_batch_takes_part(folder: Path) -> None:
    # One batch of all 37 images for two ranks.
    answers = validate_at(folder, folder / "run", 2, max_micro_batch=64)
    assert answers[0] == answers[1]
    assert answers[0]["images"] == NUM_IMAGES


def test_loss_and_errors_are_those_of_one_image_at_a_time(folder: Path, index: ImageIndex, model: Network) -> None:
    one_by_one = validate_alone(folder, index, model, max_micro_batch=1)
    in_batches = validate_alone(folder, index, model)
    assert in_batches.top1_error_percent == one_by_one.top1_error_percent
    assert in_batches.top5_error_percent == one_by_one.top5_error_percent
    assert 0 < in_batches.top5_error_percent < in_batches.top1_error_percent < 100
    assert in_batches.loss == pytest.approx(one_by_one.loss, rel=1e-5)


def test_validation_leaves_the_model_as_it_was(folder: Path, index: ImageIndex, model: Network) -> None:
    model.train()
    model.get_submodule("layer0.bn1").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = validate_alone(folder, index, model)
    assert first == validate_alone(folder, index, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    modes = {name: module.training for name, module in model.named_modules()}
    assert [name for name, mode in modes.items() if not mode] == ["layer0.bn1"]


def test_a_diverged_network_has_no_finite_loss_and_no_image_right(
    folder: Path, index: ImageIndex, model: Network
) -> None:
    with torch.no_grad():
        model.last_linear.bias.fill_(float("nan"))
    result = validate_alone(folder, index, model)
    assert np.isnan(result.loss)
    assert result.top1_error_percent == 100.0
