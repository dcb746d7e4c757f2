from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.execution import ExecutionConfig
from pipeline.config.network import ModelConfig, SEConfig
from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipeline.evaluation.loading import load_network
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.weights import save_weights

PREPROCESSING = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bilinear_antialias")


def load(weights: Path, network: ModelConfig) -> torch.nn.Module:
    return load_network(network, 5, weights, PREPROCESSING, ExecutionConfig(), torch.device("cpu"))


def test_weights_of_another_block_are_loaded_into_it(tmp_path: Path) -> None:
    network = ModelConfig(name="resnet_nano", num_classes=5, se=SEConfig(reduction=4, integration="post"))
    model = create_model("resnet_nano", 5, se=network.block)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), network.metadata())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loaded = load(tmp_path / "w.safetensors", network)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), model.eval()(images), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_told_by_its_name(tmp_path: Path) -> None:
    theirs = ModelConfig(name="resnet_nano", num_classes=5, se=SEConfig(reduction=4))
    model = create_model("resnet_nano", 5, se=theirs.block)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), theirs.metadata())
    with pytest.raises(UserError) as raised:
        load(tmp_path / "w.safetensors", ModelConfig(name="senet_nano", num_classes=5))
    assert str(raised.value) == (
        f"{tmp_path / 'w.safetensors'}: these are weights of se_resnet_nano (reduction 4), and the recipe's network is "
        "senet_nano; write model.name=se_resnet_nano"
    )
