"""What can be found out about a run without its GPUs: the network as it will be built, the images as they are shared.

`python -m pipeline.running.simulate` reads what `simulate` takes as JSON from stdin and writes a `Simulation` as JSON to stdout;
`launch plan --simulate` is who asks. Needs torch, and neither a GPU, nor an image, nor the memory of the network.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.schema import Config
from pipeline.data.index import ImageIndex, read_dataset
from pipeline.data.loaders import build_train_loader
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from pipeline.ground.ranks import Ranks
from pipeline.models.claims import check_network, meta_model
from pipeline.running.simulation import Network, Sharding, Simulation
from pipeline.training.batching import split_batch

_EPOCHS = 2
"""So that the step in which one epoch ends and the next begins is simulated too."""


def simulate(request: dict[str, Any]) -> Simulation:
    """Look at the network and at the sharding of the request's `config`, whose resources.processes are the ranks.

    `prepare` is the directory of that stage where it is done, else None, and the index is one of `images` rows.
    """
    config, prepare = Config.model_validate(request["config"]), request["prepare"]
    index = expected_index(request["images"]) if prepare is None else read_dataset(Path(prepare)).train
    return Simulation(simulate_network(config), simulate_sharding(config, index))


def simulate_network(config: Config) -> Network:
    """Build the network without memory for it. UserError where it is not what the recipe claims."""
    model = meta_model(config.model)
    parameters, macs, checks = check_network(model, config)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    momentum = sum(parameter.nbytes for parameter in model.parameters()) if config.optim.momentum else 0
    return Network(parameters, macs, len(checks), weights, weights + momentum)


def simulate_sharding(config: Config, index: ImageIndex) -> Sharding:
    """Ask the loader of every rank for its share of the first epochs, and count how often each image comes."""
    num_images, world_size = len(index), config.resources.processes
    order = StreamOrder(num_images, config.train.global_batch, config.seed)
    split = split_batch(config.train.global_batch, world_size, config.train.max_micro_batch)
    epochs = min(_EPOCHS, config.train.epochs)
    steps = order.steps_for(epochs)
    # There may be no GPU here to decode on, and nothing is decoded.
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
    # An epoch at a time: the order of the images is drawn once for all ranks then.
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
    """An index of that many rows, for what depends on nothing but their number."""
    nothing = np.zeros(num_images, dtype=np.int64)
    blank = ("",) * num_images
    return ImageIndex(Path(), blank, nothing, nothing, nothing, nothing, blank, blank, digest="")


def main() -> int:
    """Answer the request on stdin; returns the exit code of the contract."""
    try:
        result = simulate(json.load(sys.stdin))
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    print(json.dumps(dataclasses.asdict(result)))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
