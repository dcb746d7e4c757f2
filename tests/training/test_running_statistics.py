"""Batch norms' statistics: the mean over processes, and computed anew over many images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested
from pipeline.ground.ranks import Ranks, read_ranks
from pipeline.ground.stop import StopFlag
from pipeline.models import create_model
from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.weights import read_weights, save_weights
from pipeline.training.batching import split_batch
from pipeline.training.running_statistics import average_running_statistics, recompute_running_statistics
from tests.data.indexing import index_files, write_pictures
from tests.processes import finish, fork_context, free_port
from tests.recipes import small_recipe

RECOMPUTE = {"freeze_bn": {"statistics": "recompute", "statistics_images": 30}}


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]


def test_recomputed_statistics_are_the_mean_over_the_next_micro_batches(tmp_path: Path) -> None:
    config = small_recipe(tmp_path / "pictures", augmentation={"pixel_jitter": 0.0}, **RECOMPUTE)
    index = index_files(write_pictures(tmp_path / "pictures", 48))
    split = split_batch(config.train.global_batch, 1, config.train.max_micro_batch)
    collective = Collective(Ranks(), timeout_seconds=60)
    torch.manual_seed(0)
    model = create_model(config.model.name, 4)
    expected = create_model(config.model.name, 4)
    expected.load_state_dict(model.state_dict())
    images = recompute_running_statistics(model, config, index, split, 3, collective, StopFlag())
    assert images == 2 * config.train.global_batch  # whole steps

    seen: dict[int, list[torch.Tensor]] = {}
    for place, norm in enumerate(norms(expected)):
        norm.register_forward_pre_hook(
            lambda module, args, place=place: seen.setdefault(place, []).append(args[0].detach().double())
        )
    ranks, cpu = collective.ranks, collective.device
    loader = build_train_loader(index, config, ranks, cpu, micro_batch=split.micro_batch, first_step=3, last_step=3 + 2)
    preprocessor = Preprocessor(config.input, config.augmentation, cpu, channels_last=False)
    expected.train()
    with torch.no_grad():
        for batch in loader:
            expected(preprocessor.training(batch))
    assert all(len(inputs) == 2 * split.accumulation for inputs in seen.values())
    for place, norm in enumerate(norms(model)):
        means = torch.stack([x.mean((0, 2, 3)) for x in seen[place]]).mean(0)
        variances = torch.stack([x.var((0, 2, 3)) for x in seen[place]]).mean(0)
        torch.testing.assert_close(norm.running_mean.double(), means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), variances, rtol=1e-4, atol=1e-5)
        assert norm.momentum == norms(expected)[place].momentum
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name


def test_running_statistics_are_averaged_over_all_ranks_and_frozen_ones_are_not(tmp_path: Path) -> None:
    port = free_port()
    processes = [fork_context().Process(target=_average, args=(rank, port, tmp_path), daemon=True) for rank in range(3)]
    for process in processes:
        process.start()
    assert finish(processes) == [0, 0, 0]
    found = [read_weights(tmp_path / f"{rank}.safetensors") for rank in range(3)]
    for rank, tensors in enumerate(found):
        assert tensors["0.running_mean"].tolist() == [1.0, 1.0]
        assert tensors["0.running_var"].tolist() == [2.0, 2.0]
        assert tensors["0.weight"].tolist() == [rank, rank]
        assert tensors["1.running_mean"].tolist() == [rank, rank]


def _average(rank: int, port: int, folder: Path) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
    os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    collective = Collective(read_ranks(), timeout_seconds=60)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.fill_(rank + name.endswith("running_var"))
    freeze_batch_norms(model[1], "statistics")
    average_running_statistics(model, collective)
    names = {name.replace("1.0", "1"): tensor for name, tensor in model.state_dict().items()}
    save_weights(folder / f"{rank}.safetensors", names, {})
    collective.close()


def test_a_stop_while_statistics_are_computed_ends_it(tmp_path: Path) -> None:
    config = small_recipe(tmp_path / "pictures", freeze_bn={"statistics": "recompute"})
    index = index_files(write_pictures(tmp_path / "pictures", 48))
    stop = StopFlag()
    stop.reason = "SIGTERM"
    collective = Collective(Ranks(), timeout_seconds=60)
    split = split_batch(config.train.global_batch, 1, config.train.max_micro_batch)
    with pytest.raises(StopRequested, match="nothing was to be saved"):
        recompute_running_statistics(create_model("senet_nano", 4), config, index, split, 0, collective, stop)
