from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import Config
from pipeline.data.loaders import StreamLoader, build_train_loader
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.running.simulate import expected_index, simulate_network, simulate_sharding
from pipeline.running.simulation import Sharding
from tests.conftest import REPOSITORY
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

NUM_IMAGES = 50
REAL_POSITIONS = StreamLoader.local_positions


def recipe(processes: int = 4, **sections: Any) -> Config:
    return small_recipe(Path(), resources={"processes": processes}, **sections)


def sharding(**differences: int) -> Sharding:
    """Two epochs of 50 images are 100 images, so 5 steps of 24, of which each of 4 ranks sees 6."""
    right = dict.fromkeys(("missing", "repeated", "foreign"), 0)
    return Sharding(**(dict(world_size=4, num_images=50, epochs=2, steps=5, fewest=30, most=30) | right | differences))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8, 24])
def test_the_loaders_show_every_image_once_an_epoch_at_any_number_of_ranks(processes):
    result = simulate_sharding(recipe(processes), expected_index(NUM_IMAGES))
    each = 5 * 24 // processes
    assert result == sharding(world_size=processes, fewest=each, most=each)
    assert result.is_exact


def test_a_run_of_one_epoch_and_a_batch_larger_than_the_data_are_simulated_too():
    config = recipe(train={"epochs": 1, "frozen_epochs": 0}, schedule={"drop_epochs": [], "warmup_epochs": 0})
    assert simulate_sharding(config, expected_index(7)) == sharding(num_images=7, epochs=1, steps=1, fewest=6, most=6)


def test_a_rank_needs_no_gpu_to_be_simulated_where_the_run_is_to_decode_on_one():
    assert simulate_sharding(recipe(loader={"decode": "gpu"}), expected_index(NUM_IMAGES)).is_exact


def test_a_share_is_the_ranks_slice_of_every_steps_images():
    index, config, ranks = expected_index(NUM_IMAGES), recipe(), Ranks(2, 2, 4)
    cpu = torch.device("cpu")
    loader = build_train_loader(index, config, ranks, cpu, micro_batch=6, first_step=0, last_step=5)
    positions, epochs = loader.local_positions(1, 5)
    places = np.concatenate([np.arange(24 * step + 12, 24 * step + 18) for step in range(1, 5)])
    expected_positions, expected_epochs = StreamOrder(NUM_IMAGES, 24, config.seed).images_at(places)
    assert positions.tolist() == expected_positions.tolist()
    assert epochs.tolist() == expected_epochs.tolist()


def as_rank_0(loader: StreamLoader, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    return loader._order.images_at(
        (np.arange(first, end)[:, None] * loader._order.global_batch + np.arange(loader._local_batch)).ravel()
    )


def without_the_last_image(loader: StreamLoader, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    positions, epochs = REAL_POSITIONS(loader, first, end)
    kept = slice(None, -1) if loader._ranks.rank == 3 and first == 0 else slice(None)
    return positions[kept], epochs[kept]


def one_row_too_far(loader: StreamLoader, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    positions, epochs = REAL_POSITIONS(loader, first, end)
    return positions + 1, epochs


def one_place_too_far(loader: StreamLoader, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.arange(first, end)[:, None] * 24 + loader._ranks.rank * 6 + 1 + np.arange(6)
    return loader._order.images_at(places.ravel())


@pytest.mark.parametrize(
    ("share", "differences"),
    [
        # All ranks see rank 0's images: of the 100 the 6 of each of 5 steps, but for 2 that belong to the third epoch.
        (as_rank_0, {"missing": 100 - 28, "repeated": 28}),
        (without_the_last_image, {"missing": 1, "fewest": 29}),
        # Row 0 is never asked for, and row 50 does not exist; once in each of two whole epochs and the begun third.
        (one_row_too_far, {"missing": 2}),
        (one_place_too_far, {"missing": 1}),
    ],
)
def test_a_broken_sharding_is_caught(monkeypatch, share: Callable[..., Any], differences):
    monkeypatch.setattr(StreamLoader, "local_positions", share)
    result = simulate_sharding(recipe(), expected_index(NUM_IMAGES))
    assert not result.is_exact
    found = {name: getattr(result, name) for name in differences}
    assert found == differences
    assert (result.foreign > 0) == (share is one_row_too_far)


def test_network_of_the_small_recipe_is_counted_without_memory_for_it():
    network = simulate_network(recipe())
    assert network.parameters == 557_272
    assert network.checkpoint_bytes - network.weight_bytes == 4 * network.parameters
    assert simulate_network(recipe(optim={"momentum": 0.0})).checkpoint_bytes == network.weight_bytes


def test_a_false_claim_about_the_network_is_a_users_mistake():
    claimed = {"expect": {"parameters": 1, "gmacs": 0.00645}}
    with pytest.raises(UserError, match=r"parameters: 1 claimed, 557,272 found"):
        simulate_network(recipe(model=claimed))


def test_the_module_says_a_users_mistake_in_one_message_and_ends_with_2():
    config = recipe(model={"expect": {"parameters": 1, "gmacs": 0.00645}}).model_dump(mode="json")
    request = json.dumps({"config": config, "index": None, "images": 50})
    command = [sys.executable, "-m", "pipeline.running.simulate"]
    done = subprocess.run(command, cwd=REPOSITORY, input=request, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("model.expect: the network is not what the recipe claims")
