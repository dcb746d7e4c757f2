"""Simulate a run without its GPUs: the network as it will be built, and the images of each rank.

`python -m pipeline.running.simulate` reads the request of `simulate` as JSON from stdin and writes a `Simulation` as
JSON to stdout, for `launch plan --simulate`. Needs torch, but no GPU, no images and no memory for the network.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.claims import checked_size_px
from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex, read_index
from pipeline.data.loaders import build_train_loader
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import stop_with_parent
from pipeline.models.claims import check_network, meta_model
from pipeline.networks.layers import Cost
from pipeline.running.simulation import Network, Sharding, Simulation
from pipeline.store.answer import answered
from pipeline.training.batching import split_batch

_EPOCHS = 2
"""Two, to include the step in which one epoch ends and the next begins."""


def simulate(request: dict[str, Any]) -> Simulation:
    """Build the network and count each rank's images for the request's `config`, whose resources.processes is the world
    size.

    `index` is the directory of the training images' index; if it is None, a synthetic index of `images` rows is used.
    """
    config, directory = Config.model_validate(request["config"]), request["index"]
    index = expected_index(request["images"]) if directory is None else read_index(Path(directory))
    counted = len(index.classes) or None
    if config.model.num_classes is None and counted is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"num_classes": counted})})
    return Simulation(simulate_network(config), simulate_sharding(config, index))


def simulate_network(config: Config) -> Network:
    """Build the network without memory for it. Raises UserError if it contradicts the recipe's claims."""
    model = meta_model(config.model, config.model.reckoned_classes)
    layers, checks = check_network(model, config.model)
    cost = Cost.of(layers)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    momentum = sum(parameter.nbytes for parameter in model.parameters()) if config.optim.momentum else 0
    return Network(cost.parameters, cost.macs, checked_size_px(config.model), len(checks), weights, weights + momentum)


def simulate_sharding(config: Config, index: ImageIndex) -> Sharding:
    """Ask the loader of every rank for its positions in the first epochs, and count how often each image occurs."""
    num_images, world_size = len(index), config.resources.processes
    order = StreamOrder(num_images, config.train.global_batch, config.seed)
    split = split_batch(config.train.global_batch, world_size, config.train.max_micro_batch)
    epochs = min(_EPOCHS, config.train.epochs)
    steps = order.steps_for(epochs)
    # There may be no GPU here, and nothing is decoded.
    on_cpu = config.model_copy(update={"loader": config.loader.model_copy(update={"decode": "cpu"})})
    loaders = [
        build_train_loader(
            index,
            on_cpu,
            Ranks(rank, rank, world_size),
            torch.device("cpu"),
            micro_batch=split.micro_batch,
            first_step=0,
            last_step=steps,
        )
        for rank in range(world_size)
    ]
    seen = np.zeros(epochs * num_images, dtype=np.int64)
    shares, foreign = [0] * world_size, 0
    # One epoch at a time, so that the order of the images is drawn once for all ranks.
    for epoch in range(epochs):
        for rank, loader in enumerate(loaders):
            positions, in_epoch = loader.local_positions(order.steps_for(epoch), order.steps_for(epoch + 1))
            shares[rank] += len(positions)
            exists = (positions >= 0) & (positions < num_images)
            foreign += int(np.count_nonzero(~exists))
            counted = exists & (in_epoch < epochs)
            np.add.at(seen, in_epoch[counted] * num_images + positions[counted], 1)
    return Sharding(
        world_size=world_size,
        num_images=num_images,
        epochs=epochs,
        steps=steps,
        fewest=min(shares),
        most=max(shares),
        missing=int(np.count_nonzero(seen == 0)),
        repeated=int(np.count_nonzero(seen > 1)),
        foreign=foreign,
    )


def expected_index(num_images: int) -> ImageIndex:
    """Return a synthetic index of that many rows, for work that depends on their number alone."""
    nothing = np.zeros(num_images, dtype=np.int64)
    digests = np.zeros((num_images, 32), dtype=np.uint8)
    return ImageIndex("train", "", (), ("",) * num_images, nothing, nothing, nothing, nothing, digests, nothing, "")


def main() -> int:
    """Answer the request on stdin. Returns the exit code of the contract."""
    stop_with_parent()
    print(json.dumps(dataclasses.asdict(simulate(json.load(sys.stdin)))))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(answered(main))
