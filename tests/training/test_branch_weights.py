"""The weights of branches: of the seed and an image's place in the stream alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.reader import write_run_config
from pipeline.models import create_model
from pipeline.models.shake import Mixing
from pipeline.models.weights import read_weights
from pipeline.running.stage import place_stages
from pipeline.training.branch_weights import BranchWeights
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe


def drawn(name: str, first_place: int, images: int, seed: int = 3) -> torch.Tensor:
    """(modules, 2, images), as the network's modules hold them."""
    network = create_model(name, 4)
    BranchWeights(network, seed, images, torch.device("cpu")).draw(first_place)
    weights = [module.weights for module in network.modules() if isinstance(module, Mixing)]
    return torch.stack([values for values in weights if values is not None])


def test_an_image_has_the_same_weights_in_any_batch_and_others_elsewhere() -> None:
    whole = drawn("shake_shake_nano", 100, 12)
    for size in (1, 4, 6):
        parts = [drawn("shake_shake_nano", place, size) for place in range(100, 112, size)]
        assert torch.equal(torch.cat(parts, dim=2), whole)
    assert len(whole.unique()) == whole.numel()
    assert not torch.equal(drawn("shake_shake_nano", 100, 12, seed=4), whole)


def test_weights_are_uniform_and_shake_even_has_none_backward() -> None:
    values = drawn("shake_shake_nano", 0, 4000).numpy().ravel()
    assert np.abs(np.histogram(values, 10, (0, 1))[0] / len(values) - 0.1).max() < 0.01
    forward, backward = drawn("shake_even_nano", 0, 50).unbind(1)
    assert len(forward.unique()) == forward.numel()
    assert (backward == 0.5).all()


@pytest.mark.processes
def test_two_and_three_processes_train_what_one_does_but_for_the_order_of_sums(tmp_path: Path) -> None:
    """Micro-batches are those of one process, so a network whose images had other weights would be far away."""
    images = write_image_folders(tmp_path / "images", num_classes=4, train_per_class=6, val_per_class=2)
    config = small_recipe(
        images,
        model={"name": "se_shake_shake_nano"},
        train={"epochs": 2, "frozen_epochs": 0, "max_micro_batch": 4, "validate_every_epochs": 2},
        schedule={"drop_epochs": [], "warmup_epochs": 0},
        augmentation={"pixel_jitter": 0.0},
    )
    trained = []
    for world_size in (1, 2, 3):
        run = tmp_path / f"run{world_size}"
        write_run_config(run, config)
        for stage, processes in {"prepare": 1, "build": 1, "train": world_size}.items():
            run_stage_to_end(run, stage, processes)
        placed = place_stages(config, run, STAGES)
        before, after = (read_weights(placed[name].directory / "weights.safetensors") for name in ("build", "train"))
        trained.append(torch.cat([(after[key] - before[key]).ravel() for key in after if key.endswith("weight")]))
    one, *others = trained
    for other in others:
        assert float((other - one).norm() / one.norm()) < 1e-3
