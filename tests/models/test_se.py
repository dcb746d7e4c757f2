from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.tracing import trace_layers
from pipeline.networks.layers import Cost
from pipeline.networks.registry import BlockChoice, SEBlock

VARIANTS = [
    {"integration": integration, "squeeze": squeeze, "excitation": excitation, "bias": bias}
    for integration, squeeze, excitation, bias in (
        ("standard", "average", "sigmoid", True),
        ("standard", "max", "sigmoid", False),
        ("standard", "none", "sigmoid", True),
        ("standard", "average", "tanh", True),
        ("standard", "average", "relu", True),
        ("pre", "average", "sigmoid", True),
        ("post", "average", "sigmoid", True),
        ("identity", "average", "sigmoid", True),
        ("3x3", "average", "sigmoid", True),
        ("pre", "none", "tanh", False),
    )
]


def gated(block: Any, x: torch.Tensor, squeeze: str, excitation: str, **_: Any) -> torch.Tensor:
    """Equations 2 to 4, with the paper's variants, from the block's weights."""
    fc1, fc2 = block.se_module.fc1, block.se_module.fc2
    pooled = {"average": lambda: x.mean((2, 3), True), "max": lambda: x.amax((2, 3), True), "none": lambda: x}[
        squeeze
    ]()
    inner = F.relu(F.conv2d(pooled, fc1.weight, fc1.bias))
    return x * getattr(torch, excitation)(F.conv2d(inner, fc2.weight, fc2.bias))


def block_output(block: Any, x: torch.Tensor, integration: str, **se: Any) -> torch.Tensor:
    """Figure 5 of the paper, and SE_3x3."""

    def at(place: str, x: torch.Tensor) -> torch.Tensor:
        return gated(block, x, **se) if place == integration else x

    y = F.relu(block.bn1(block.conv1(at("pre", x))))
    y = at("3x3", F.relu(block.bn2(block.conv2(y))))
    y = at("standard", block.bn3(block.conv3(y)))
    shortcut = at("identity", x if block.downsample is None else block.downsample(x))
    return at("post", F.relu(y + shortcut))


@pytest.mark.parametrize("se", VARIANTS, ids=lambda se: "-".join(map(str, se.values())))
def test_every_variant_is_the_paper_s(se: dict[str, Any]) -> None:
    model: Any = create_model("senet_nano", 10, se=SEBlock(**se)).eval()
    generator = torch.Generator().manual_seed(1)
    for block, channels in ((model.layer2[0], 64), (model.layer2[1], 128)):
        for parameter in block.se_module.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        x = torch.randn(2, channels, 6, 6, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(block(x), block_output(block, x.clone(), **se))


def test_biases_are_left_out_of_both_layers_and_no_others() -> None:
    plain, bare = (set(create_model("senet_nano", 10, se=se).state_dict()) for se in ("default", SEBlock(bias=False)))
    left_out = plain - bare
    assert bare < plain
    assert len(left_out) == 8
    assert all(re.search(r"se_module\.fc[12]\.bias$", name) for name in left_out)


def test_stages_without_blocks_have_none() -> None:
    model = create_model("senet_nano", 10, se=SEBlock(stages=(3,)))
    assert list(model.se_modules()) == ["layer2.0.se_module", "layer2.1.se_module"]


@pytest.mark.parametrize("se", [None, SEBlock(stages=())])
def test_without_blocks_the_rest_of_the_network_is_the_same(se: BlockChoice) -> None:
    whole, without = create_model("senet_nano", 10, seed=3), create_model("senet_nano", 10, se=se, seed=3)
    assert not without.se_modules()
    expected = {name: tensor for name, tensor in whole.state_dict().items() if ".se_module." not in name}
    found = without.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_reduction_beyond_the_channels_is_refused() -> None:
    with pytest.raises(UserError) as raised:
        create_model("senet_nano", 10, se=SEBlock(reduction=65))
    assert str(raised.value) == (
        "model.se.reduction: must be at most 64, the channels of one of the network's blocks (given 65)"
    )


def test_hidden_channels_are_rounded_down() -> None:
    model: Any = create_model("senet_nano", 10, se=SEBlock(reduction=30))
    assert model.layer1[0].se_module.fc1.out_channels == 2


def test_gates_of_every_position_cost_as_many_multiply_adds_more() -> None:
    with torch.device("meta"):
        model = create_model("senet_nano", 10, se=SEBlock(squeeze="none"))
    layers = trace_layers(model, 32)
    gates = [layer for layer in layers if ".se_module.fc" in layer.name]
    assert [layer.out_size for layer in gates] == [8, 8, 4, 4, 4, 4, 2, 2]
    assert Cost.of(gates).macs == sum(layer.in_channels * layer.out_channels * layer.out_size**2 for layer in gates)
