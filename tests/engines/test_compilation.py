from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.engines.compilation import compile_blocks, compile_network
from pipeline.models import create_model
from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.initialisation import initialise
from pipeline.models.network import Block, Options
from pipeline.models.resnet import build
from pipeline.networks.registry import NETWORKS, SEBlock

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()


def nano() -> nn.Module:
    model = create_model("senet_nano", 4, dropout=0.0)
    initialise(model, seed=3)
    return model.to(memory_format=torch.channels_last).train()


def gradients(network: nn.Module, model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the logits' sum through `network`, by name in `model`, with the logits themselves."""
    logits = network(images)
    logits.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"logits": logits.detach(), **found}


@pytest.mark.parametrize("frozen", [False, True])
def test_compiled_blocks_compute_what_the_network_does_and_share_its_state(frozen: bool) -> None:
    """With the compiler's tracing, but its kernels left out, since those round in another way."""
    plain = nano()
    if frozen:
        freeze_batch_norms(plain, "statistics_and_affine")
    model = copy.deepcopy(plain)
    network = compile_blocks(model, backend="eager")
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected, found = gradients(plain, plain, images), gradients(network, model, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    # The batch norms' statistics moved in the one model that there is.
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert {id(p) for p in network.parameters()} == {id(p) for p in model.parameters()}


def test_the_network_itself_stays_uncompiled() -> None:
    model = nano()
    names = list(model.state_dict())
    compile_blocks(model, backend="eager")
    assert list(model.state_dict()) == names
    assert sum(isinstance(module, Block) for module in model.modules()) == 4
    assert not any(isinstance(module, torch._dynamo.OptimizedModule) for module in model.modules())


def test_a_network_without_a_known_block_is_not_left_uncompiled_in_silence() -> None:
    with pytest.raises(AssertionError, match="Sequential has no block that is compiled"):
        compile_blocks(nn.Sequential(nn.Linear(2, 2)), backend="eager")


def test_each_kind_of_block_is_compiled_once_and_none_is_left_out() -> None:
    """10 kinds, more than PyTorch compiles unless it is told to; beyond that it would run them as they are."""
    widths = (16, 24, 32, 40, 48)
    options = Options(num_classes=2, se=SEBlock(reduction=4), dropout=0.0, bn_momentum=0.1, max_pool="ceil")
    model = build(
        options,
        stem=(8, 8, 8),
        widths=widths,
        blocks=(3, 2, 2, 2, 2),
        divisors=(2, 1),
        groups=4,
        stride_in="3x3",
        projection_kernel=3,
    ).eval()
    backend = CompileCounterWithBackend("eager")
    network = compile_blocks(model, backend=backend)  # type: ignore[arg-type]
    with torch.no_grad():
        network(torch.ones(1, 3, 64, 64))
    assert backend.frame_count == 10


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("_nano")])
def test_a_network_of_few_blocks_is_compiled_as_a_whole(name: str) -> None:
    """Without a break, which would leave what is around it uncompiled."""
    model = create_model(name, 4, dropout=0.0, seed=3).train()
    backend = CompileCounterWithBackend("eager")
    network = compile_network(model, backend=backend)  # type: ignore[arg-type]
    side = NETWORKS[name].image_size_px
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    plain = copy.deepcopy(model)
    expected, found = gradients(plain, plain, images), gradients(network, model, images)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert backend.frame_count == 1


@pytest.mark.parametrize(
    ("name", "is_whole"), [("wrn16_8", True), ("shake_even29_2x4x64d", False), ("senet154", False)]
)
def test_a_network_of_many_blocks_is_compiled_block_by_block(name: str, is_whole: bool) -> None:
    with torch.device("meta"):
        network = compile_network(create_model(name, 10))
    assert isinstance(network, torch._dynamo.OptimizedModule) == is_whole
