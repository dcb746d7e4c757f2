"""What the engines and the evaluation ask of any network, on a small one of each family, with the block and without."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.engines.compilation import compile_blocks
from pipeline.engines.cuda_graphs import split
from pipeline.evaluation.inference import with_sliding_crops
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.batch_norm import fold_batch_norms, freeze_batch_norms
from pipeline.models.network import HEAD, Block, Network
from pipeline.networks.layers import layer_table
from pipeline.networks.registry import NETWORKS

pytestmark = pytest.mark.slow

SMALL = [name for name in NETWORKS if name.endswith("_nano")]


def trained_a_little(name: str) -> tuple[Network, torch.Tensor]:
    """A network whose batch norms have seen images, and images of its size."""
    size = NETWORKS[name].image_size_px
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(3))
    network = create_model(name, 5, dropout=0.0, bn_momentum=1.0, seed=4)
    with torch.no_grad():
        for tensor_name, tensor in network.named_parameters():
            if tensor.dim() == 1:
                tensor.uniform_(0.3, 1.0, generator=torch.Generator().manual_seed(len(tensor_name)))
        network(images)
    return network, images


def answer(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        scores: torch.Tensor = network(images)
    return scores


def test_there_is_a_small_network_of_every_family() -> None:
    assert {NETWORKS[name].family for name in SMALL} == {network.family for network in NETWORKS.values()}


@pytest.mark.parametrize("name", SMALL)
def test_blocks_are_all_there_are_and_in_order(name: str) -> None:
    network = create_model(name, 5)
    called: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda module, _, __: called.append(module))
    size = NETWORKS[name].image_size_px
    network.eval()(torch.zeros(1, 3, size, size))
    assert called == list(network.blocks().values())
    assert called == [module for module in network.modules() if isinstance(module, Block)]


@pytest.mark.parametrize("name", SMALL)
def test_se_modules_are_where_the_name_says(name: str) -> None:
    found = create_model(name, 5).se_modules()
    assert bool(found) == NETWORKS[name].has_se
    assert all(key.endswith(".se_module") for key in found)


@pytest.mark.parametrize("name", SMALL)
def test_sections_and_compiled_blocks_are_the_network(name: str) -> None:
    """With the compiler's tracing, but its kernels left out, since those round in another way."""
    torch._dynamo.reset()
    network, images = trained_a_little(name)
    model = copy.deepcopy(network)
    compiled = compile_blocks(model, backend="eager")
    assert not any(isinstance(module, torch._dynamo.OptimizedModule) for module in model.modules())
    sections = split(compiled)
    expected, found = network(images), nn.Sequential(*sections)(images)
    assert torch.equal(found, expected)
    expected.sum().backward()
    found.sum().backward()
    for (key, own), other in zip(network.named_parameters(), model.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.equal(own.grad, other.grad), key
    parts = [parameter for section in sections for parameter in section.parameters()]
    assert len(parts) == len(list(model.parameters())) == len({id(part) for part in parts})


def batch_norms_of_sums(name: str) -> set[str]:
    """Batch norms of what is no convolution's output, or is needed without them too: no convolution can take them."""
    layers = layer_table(name)
    convs = {layer.name for layer in layers if layer.kind == "conv"}
    read = Counter(place for layer in layers for place in layer.inputs)
    alone = {place for place in convs if read[place] == 1}
    return {layer.name for layer in layers if layer.kind == "bn" and layer.inputs[0] not in alone}


@pytest.mark.parametrize("name", SMALL)
def test_folded_and_frozen_networks_compute_the_same(name: str) -> None:
    network, images = trained_a_little(name)
    expected = answer(network.eval(), images)
    folded = fold_batch_norms(network)
    left = {key for key, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert left == batch_norms_of_sums(name)
    torch.testing.assert_close(answer(folded, images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    frozen = copy.deepcopy(network)
    assert freeze_batch_norms(frozen, "statistics_and_affine") > 0
    assert torch.equal(answer(frozen.train(), images), expected)


@pytest.mark.parametrize("name", SMALL)
def test_images_need_be_neither_square_nor_of_the_network_s_size(name: str) -> None:
    size = NETWORKS[name].image_size_px
    # BN-Inception's poolings and convolutions halve only even maps alike, as in its prototxt.
    height = 2 * size if NETWORKS[name].family == "bn_inception" else size + 13
    network = create_model(name, 5).eval()
    assert answer(network, torch.zeros(2, 3, height, 3 * size)).shape == (2, 5)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_bfloat16_train(name: str) -> None:
    network, images = trained_a_little(name)
    network, images = (
        network.train().to(memory_format=torch.channels_last),
        images.to(memory_format=torch.channels_last),
    )
    expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(images)
    assert scores.dtype == torch.bfloat16
    assert (scores - expected).norm() < 0.3 * expected.norm()
    scores.float().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_is_the_last_part_and_the_only_one_that_depends_on_the_classes(name: str) -> None:
    few, many = (create_model(name, classes).state_dict() for classes in (5, 7))
    assert list(create_model(name, 5)._modules)[-1] == HEAD
    differing = {key for key in few if few[key].shape != many[key].shape}
    assert differing == {f"{HEAD}.weight", f"{HEAD}.bias"}


def test_dropout_is_the_recipe_s_or_the_network_s_own() -> None:
    def shares(name: str, **options: Any) -> set[float]:
        return {module.p for module in create_model(name, 5, **options).modules() if isinstance(module, nn.Dropout)}

    assert shares("vgg_nano") == {0.5}
    assert shares("resnet_nano") == {0.0}
    assert shares("senet_nano") == {0.2}
    assert shares("mobilenet_nano", dropout=0.3) == {0.3}


def test_a_pooling_that_a_network_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="max_pool: mobilenet_nano has no pooling that could be padded"):
        create_model("mobilenet_nano", 5, max_pool="padded")


def test_windows_of_the_last_map_need_a_network_that_averages_it() -> None:
    with pytest.raises(UserError, match="crop plan: sliding windows need a network that averages its last map"):
        with_sliding_crops(create_model("vgg_nano", 5))
