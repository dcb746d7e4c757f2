"""The weights of branches: of the seed and an image's place in the stream alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.models import create_model
from pipeline.models.shake import Mixing
from pipeline.models.weights import read_weights
from pipeline.running.stage import place_stages
from pipeline.tracking.events import read_events
from pipeline.training.branch_weights import BranchWeights
from stages import STAGES
from tests.images import write_image_folders
from tests.processes import finish, run_stage_to_end, start_stage
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


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    images = write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=6, val_per_class=2)
    return small_recipe(
        images,
        model={"name": "se_shake_shake_nano"},
        train={"epochs": 3, "frozen_epochs": 0, "max_micro_batch": 4, "validate_every_epochs": 3},
        schedule={"drop_epochs": [], "warmup_epochs": 0},
        augmentation={"pixel_jitter": 0.0},
        checkpoint={"every_steps": 1},
        tracking={"log_every_steps": 1},
    )


def train(run: Path, config: Config, world_size: int, *, is_killed: bool = False) -> dict[str, torch.Tensor]:
    """The change of each weight, by processes of its own."""
    write_run_config(run, config)
    placed = place_stages(config, run, STAGES)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    if is_killed:
        processes = start_stage(run, "train", world_size)
        while not any(event["global_step"] >= 2 for event in read_events(placed["train"].directory, "train")):
            processes[0].join(0.005)
            assert processes[0].is_alive(), "it ended before its second step"
        for process in processes:
            process.kill()
        finish(processes)
        assert not placed["train"].is_done
    run_stage_to_end(run, "train", world_size)
    before, after = (read_weights(placed[name].directory / "weights.safetensors") for name in ("build", "train"))
    return {key: after[key] - before[key] for key in after if key.endswith("weight")}


@pytest.mark.processes
def test_two_and_three_processes_train_what_one_does_but_for_the_order_of_sums(tmp_path: Path, config: Config) -> None:
    """Micro-batches are those of one process, so a network whose images had other weights would be far away."""
    trained = [train(tmp_path / str(world_size), config, world_size) for world_size in (1, 2, 3)]
    one, *others = (torch.cat([moved.ravel() for moved in changes.values()]) for changes in trained)
    for other in others:
        assert float((other - one).norm() / one.norm()) < 1e-3


@pytest.mark.processes
def test_killed_processes_go_on_with_the_weights_that_they_would_have_had(tmp_path: Path, config: Config) -> None:
    expected, found = (train(tmp_path / str(is_killed), config, 2, is_killed=is_killed) for is_killed in (False, True))
    for key, moved in expected.items():
        assert torch.equal(found[key], moved), key
