from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.execution import ExecutionConfig
from pipeline.config.network import ModelConfig, SEConfig
from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipeline.evaluation.loading import load_network
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.weights import save_weights
from pipeline.networks.registry import NETWORKS

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
        "senet_nano; add model.name=se_resnet_nano 'model.se={\"reduction\": 4}'"
    )


class Casts(TorchDispatchMode):
    """Counts conversions to another type."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.of.append(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("se_") and name.endswith("_nano")])
def test_weights_are_cast_once_and_give_the_bits_of_a_cast_in_every_batch(tmp_path: Path, name: str) -> None:
    network, size = ModelConfig(name=name, num_classes=5), NETWORKS[name].image_size_px
    torch.manual_seed(1)
    save_weights(tmp_path / "w.safetensors", create_model(name, 5).state_dict(), network.metadata())
    images = torch.randn(2, 3, size, size)
    logits, casts = {}, {}
    for precision in ("float32", "bfloat16"):
        execution = ExecutionConfig(precision=precision)
        model = load_network(network, 5, tmp_path / "w.safetensors", PREPROCESSING, execution, torch.device("cpu"))
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Casts() as seen:
            logits[precision] = model.eval()(images)
        casts[precision] = len(weights & set(seen.of))
    assert casts["float32"] > 10, "the count sees casts"
    assert casts["bfloat16"] == 0
    assert torch.equal(logits["float32"], logits["bfloat16"])
