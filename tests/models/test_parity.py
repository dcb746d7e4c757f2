"""SENet-154 against timm's legacy_senet154, an independent port of the authors' network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.models.network import Network
from tests.interop.random_weights import randomise

pytestmark = pytest.mark.slow

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def networks() -> tuple[Network, nn.Module]:
    """Ours and timm's with the same tensors: He weights, and batch norms and biases that are all different."""
    with torch.device("meta"):
        theirs = timm.create_model("legacy_senet154", drop_rate=0.0)
    theirs.to_empty(device="cpu")
    randomise(theirs.state_dict(), seed=154)
    ours = create_model("senet154", 1000, dropout=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def _run(model: nn.Module, images: torch.Tensor, training: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train(training)
    model.zero_grad()
    scores = model(images)
    targets = torch.arange(len(images)) * 300 + 7
    nn.functional.cross_entropy(scores, targets).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return scores.detach(), gradients


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("image_size_px", [224, 320])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_outputs_and_gradients_are_those_of_the_independent_port(
    networks: tuple[Network, nn.Module], training: bool, image_size_px: int
) -> None:
    ours, theirs = networks
    generator = torch.Generator().manual_seed(image_size_px)
    # Batch norm needs two images to be itself in train mode; in eval mode images do not meet.
    images = torch.randn(2 if training else 1, 3, image_size_px, image_size_px, generator=generator)
    scores, gradients = _run(ours, images, training)
    expected_scores, expected_gradients = _run(theirs, images, training)

    assert _relative_error(scores, expected_scores) < 1e-5
    assert gradients.keys() == expected_gradients.keys()
    errors = {name: _relative_error(gradients[name], expected_gradients[name]) for name in expected_gradients}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < 1e-4, worst
    statistics = dict(theirs.named_buffers())
    for name, statistic in ours.named_buffers():
        torch.testing.assert_close(statistic, statistics[name], rtol=1e-5, atol=1e-6, msg=name)
