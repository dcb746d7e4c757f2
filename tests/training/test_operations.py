"""Operations and checks change no bit of the weights: two steps from a recipe and from one that differs in a leaf."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.identity import Leaf, leaves
from pipeline.config.schema import Config
from pipeline.config.section import Kind
from tests.config.changes import changed
from tests.recipes import small_recipe
from tests.training.small_trainer import train_steps

pytestmark = pytest.mark.slow

EXEMPT = {
    "engine": "another engine may sum in another order; tests/engines hold how far it is off",
    "native.cuda_graphs": "needs a GPU",
    "deepspeed.zero_stage": "DeepSpeed runs in processes of its own; tests/engines compare its stages bit for bit",
    "loader.decode": "gpu needs one, and rounds otherwise: a change is told and recorded",
    "resources.processes": "the world size of the processes that run, which tests/faults compares",
    "data.root": "another folder must hold the same images; tests/faults moves them",
    "data.train": "as data.root",
    "data.val": "as data.root",
    "data.val_ground_truth": "names a file, whose content counts",
    "data.test": "no images of training",
    "data.shards": "tests/data compares the batches of shards and files bit for bit",
    "model.weights": "names a file, whose content counts",
    "freeze_bn.from_checkpoint": "names a checkpoint, whose content counts",
    "evaluate.classes": "names a file, whose content counts",
    "evaluate.weights": "names a file, whose content counts",
    "fuse.scores": "names files, whose content counts",
    "fuse.weights_from": "names a file, whose content counts",
    "report.compare": "names a run, whose content counts",
}
STEPS = 2
WALKED = [leaf for leaf in leaves() if leaf.kind is not Kind.RESULT and leaf.name not in EXEMPT]


def test_every_exemption_is_an_operation() -> None:
    assert {leaf.name for leaf in leaves() if leaf.kind is Kind.OPERATION} >= EXEMPT.keys()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("expected")
    return train_steps(folder, small_recipe(folder / "pictures"), STEPS)


@pytest.mark.parametrize("leaf", WALKED, ids=lambda leaf: leaf.name)
def test_two_steps_end_with_the_same_bits(leaf: Leaf, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    config: Config = changed(small_recipe(tmp_path / "pictures"), leaf, "unused")[1]
    found = train_steps(tmp_path, config, STEPS)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
