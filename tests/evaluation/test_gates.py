from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.evaluation.gates import GateSums, fixed_gates, labels_of
from pipeline.evaluation.inference import evaluating
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.networks.registry import SEBlock

LABELS = torch.tensor([2, 0, 2, 2, 0, 2])
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def network(block: SEBlock) -> Network:
    return create_model("se_resnet_nano", 3, se=block, seed=5)


BLOCKS = (SEBlock(squeeze="none"), SEBlock(excitation="tanh", stages=(3,)), SEBlock(excitation="relu"))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_gates_of_every_kind_of_block_are_added_up(block: SEBlock) -> None:
    """A channel's gate is the mean over its positions where nothing is squeezed. Classes without images have no row."""
    model = network(block)
    hooked: dict[str, list[torch.Tensor]] = {name: [] for name in model.se_modules()}
    for name, module in model.se_modules().items():
        module.register_forward_hook(lambda _, __, gates, name=name: hooked[name].append(gates.double().mean((2, 3))))
    sums = GateSums(model, 3, torch.device("cpu"))
    with evaluating(model):
        model(IMAGES)
        with sums.watching():
            for rows in (slice(4, 6), slice(0, 4)):
                sums.labels = LABELS[rows]
                model(IMAGES[rows])
    found = sums.collect(Collective(Ranks(), 60), np.array([2, 0, 4]))
    assert list(found) == list(hooked)
    precision = 1e-3 if block.excitation == "relu" else 1e-6
    for name, gates in found.items():
        expected = hooked[name][0]
        for row, label in enumerate((0, 2)):
            own = expected[label == LABELS].numpy()
            np.testing.assert_allclose(gates.mean_KC[row], own.mean(0), atol=precision)
            np.testing.assert_allclose(gates.std_KC[row], own.std(0), atol=precision)
        np.testing.assert_allclose(gates.std_C, expected.numpy().std(0), atol=precision)


def test_blocks_are_called_as_in_the_paper() -> None:
    with torch.device("meta"):
        labels = list(labels_of(create_model("se_resnet50", 1000)).values())
    assert (labels[0], labels[2], labels[6], labels[12], labels[-1]) == (
        "SE_2_1",
        "SE_2_3",
        "SE_3_4",
        "SE_4_6",
        "SE_5_3",
    )
    assert len(labels) == 16


def test_fixed_gates_are_the_same_for_every_image_and_only_for_a_while() -> None:
    model = network(SEBlock())
    name, module = next(iter(model.se_modules().items()))
    constant = np.linspace(0, 1, module.channels, dtype=np.float32)
    with evaluating(model):
        before = model(IMAGES)
        with fixed_gates(model, {name: constant}):
            features = torch.rand(2, module.channels, 4, 4)
            assert torch.equal(module(features)[:, :, 0, 0], torch.from_numpy(constant).expand(2, -1))
            assert not torch.equal(model(IMAGES), before)
        assert torch.equal(model(IMAGES), before)
