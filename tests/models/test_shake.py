"""The weighted sum of Shake-Shake: other weights forward than backward, and the mean in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.engines.compilation import compile_blocks
from pipeline.engines.cuda_graphs import capture_sections, own_gradients
from pipeline.models import create_model
from pipeline.models.shake import Mixing
from pipeline.training.branch_weights import BranchWeights
from tests.engines.cpu_graphs import capture


def branches() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(2, 3, 4, 4, generator=generator, requires_grad=True) for _ in range(2))
    return first, second


def test_each_image_is_mixed_with_its_a_and_gradients_are_passed_on_with_its_b() -> None:
    first, second = branches()
    mixing, (a, b) = Mixing(is_even=False), torch.tensor([[0.1, 0.7], [0.9, 0.25]])
    mixing.weights = torch.stack((a, b))
    mixed = mixing(first, second)
    expected = a.view(2, 1, 1, 1) * first + (1 - a).view(2, 1, 1, 1) * second
    torch.testing.assert_close(mixed, expected)
    gradient = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(4))
    mixed.backward(gradient)
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, b.view(2, 1, 1, 1) * gradient)
    torch.testing.assert_close(second.grad, (1 - b).view(2, 1, 1, 1) * gradient)


def test_in_evaluation_and_without_weights_both_branches_count_alike() -> None:
    first, second = branches()
    mixing = Mixing(is_even=False)
    assert torch.equal(mixing(first, second), (first + second) / 2)
    mixing.weights = torch.zeros(2, 2)
    assert not torch.equal(mixing(first, second), (first + second) / 2)
    assert torch.equal(mixing.eval()(first, second), (first + second) / 2)


@pytest.mark.parametrize("name", ["shake_shake_nano", "se_shake_even_nano"])
@pytest.mark.parametrize("how", ["compiled", "captured"])
@pytest.mark.slow
def test_compiled_and_in_cuda_graphs_a_network_reads_the_weights_of_each_batch(how: str, name: str) -> None:
    """The compiler's kernels are left out, and the graphs are the CPU's, so that nothing rounds in another way."""
    torch._dynamo.reset()
    network, images = create_model(name, 5, seed=4), torch.randn(4, 3, 32, 32)
    weights = BranchWeights(network, 7, len(images), torch.device("cpu"))
    own_gradients(network)
    runner = (
        compile_blocks(network, backend="eager") if how == "compiled" else capture_sections(network, images, capture)
    )
    seen = set()
    for place in range(3):
        weights.draw(place)
        expected, found = (gradients(one, network, images) for one in (network, runner))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        seen.add(float(found[0].sum()))
    assert len(seen) == 3


def gradients(runner: nn.Module, network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Logits and gradients of some loss."""
    network.zero_grad(set_to_none=False)
    logits = runner(images)
    logits.square().sum().backward()
    return [logits.detach().clone(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]
