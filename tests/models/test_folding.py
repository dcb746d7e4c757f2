from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.batch_norm import FrozenBatchNorm2d, Scope, fold_batch_norms, freeze_batch_norms
from pipeline.models.network import Network
from pipeline.networks.registry import MaxPool

pytestmark = pytest.mark.slow


def make_network(name: str = "senet_nano", *, seed: int = 1, size_px: int = 64, max_pool: MaxPool = "ceil") -> Network:
    """As if trained: gammas and betas that all differ, and the statistics of the maps that there are."""
    network = create_model(name, 10, bn_momentum=1.0, max_pool=max_pool, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module_name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                # The last of a block is small in trained networks; else a deep one would magnify every rounding.
                largest = 0.3 if module_name.endswith("bn3") else 1.5
                module.weight.uniform_(0.3 * largest, largest, generator=generator)
                module.bias.normal_(0.0, 0.3, generator=generator)
        network.train()(torch.randn(8, 3, size_px, size_px, generator=generator))
    return network.eval()


def make_images(size_px: int, number: int = 4) -> torch.Tensor:
    return torch.randn(number, 3, size_px, size_px, generator=torch.Generator().manual_seed(size_px))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@torch.inference_mode()
def answer(network: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        logits: torch.Tensor = network(images)
    return logits


@pytest.mark.parametrize(("name", "images"), [("senet_nano", 4), ("senet154", 1)])
def test_answers_are_those_of_the_network_with_batch_norms(name: str, images: int) -> None:
    network = make_network(name, size_px=96 if name == "senet154" else 64)
    batch = make_images(224, images)
    expected, found = answer(network, batch), answer(fold_batch_norms(network), batch)
    assert relative_error(found, expected) < 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("max_pool", ["ceil", "padded"])
@pytest.mark.parametrize("size_px", [32, 65])
def test_max_pool_stays_as_it_is(max_pool: MaxPool, size_px: int) -> None:
    network = make_network(max_pool=max_pool)
    images = make_images(size_px)
    assert relative_error(answer(fold_batch_norms(network), images), answer(network, images)) < 1e-5


@pytest.mark.parametrize("scope", ["statistics", "statistics_and_affine"])
def test_frozen_batch_norms_fold_to_the_same_bits(scope: Scope) -> None:
    network = make_network()
    expected = fold_batch_norms(network).state_dict()
    freeze_batch_norms(network, scope)
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in folded.modules())
    found = folded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_are_rounded_once() -> None:
    """To the nearest float32 of what the weights of the same network in float64 fold to."""
    network = make_network()
    exact = fold_batch_norms(copy.deepcopy(network).double()).state_dict()
    found = fold_batch_norms(network).state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], exact[name].float()) for name in found)


def test_in_float64_nothing_is_left_of_the_difference() -> None:
    network = make_network().double()
    images = make_images(64).double()
    assert relative_error(answer(fold_batch_norms(network), images), answer(network, images)) < 1e-13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_to_the_truth_as_with_batch_norms(dtype: torch.dtype) -> None:
    with_norms, folded = [], []
    for seed in range(4):
        network = make_network(seed=seed)
        images = make_images(64, 8)
        truth = answer(copy.deepcopy(network).double(), images.double())
        with_norms.append(relative_error(answer(network, images, dtype), truth))
        folded.append(relative_error(answer(fold_batch_norms(network), images, dtype), truth))
    # The roundings are others, so that one is ahead for some seeds and the other for the rest.
    assert sum(folded) < 1.25 * sum(with_norms)


def test_every_batch_norm_is_gone_and_the_network_that_was_given_is_as_before() -> None:
    network = make_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norms(network)
    assert not any(module.training for module in folded.modules())
    assert not any("running" in name for name in folded.state_dict())
    assert network.training
    with torch.no_grad():
        for tensor in folded.state_dict().values():
            tensor.fill_(7.0)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_stays(layout: torch.memory_format) -> None:
    network = make_network().to(memory_format=layout)
    strides = {name: tensor.stride() for name, tensor in network.state_dict().items() if tensor.dim() == 4}
    found = fold_batch_norms(network).state_dict()
    assert {name: found[name].stride() for name in strides} == strides


def test_a_batch_norm_without_its_convolution_is_a_bug() -> None:
    network = make_network()
    block = network.get_submodule("layer1.0")
    block.conv2 = nn.Identity()
    with pytest.raises(AssertionError, match="no convolution comes right before bn2"):
        fold_batch_norms(network)


def test_a_normalisation_of_another_kind_is_a_bug() -> None:
    network = make_network()
    block = network.get_submodule("layer1.0")
    block.bn1 = nn.SyncBatchNorm(64)
    with pytest.raises(AssertionError, match=r"bn1: .*SyncBatchNorm"):
        fold_batch_norms(network)


def test_a_convolution_s_own_bias_is_folded_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=1.0))
    images = make_images(16)
    network(images)
    torch.testing.assert_close(answer(fold_batch_norms(network), images), answer(network.eval(), images))
