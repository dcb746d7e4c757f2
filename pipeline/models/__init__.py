"""The networks. Importing this package does not import torch; `create_model` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ground.errors import UserError
from pipeline.networks.registry import NETWORKS, BlockChoice, MaxPool, block_of, network_problem, spelled

if TYPE_CHECKING:
    from pipeline.models.network import Network


def create_model(
    name: str,
    num_classes: int,
    *,
    se: BlockChoice = "default",
    dropout: float | None = None,
    bn_momentum: float = 0.1,
    max_pool: MaxPool = "ceil",
    stride_in_3x3: bool = False,
    seed: int = 0,
) -> Network:
    """Return the network `name` of the registry, in training mode, on torch's current default device.

    It holds the initial weights of `seed` (see `initialise`), except under `torch.device("meta")`, where it costs
    neither time nor memory: to inspect it, or to load weights into it. `se` is another squeeze-and-excitation block
    than the name stands for, or None; `dropout` is the network's own if None. Raises UserError if there is no such
    network.
    """
    import importlib

    import torch

    from pipeline.models.initialisation import allocate, initialise
    from pipeline.models.network import Options

    if name not in NETWORKS:
        raise UserError(f"model.name: there is no network '{name}' (there are: {', '.join(NETWORKS)})")
    name, se = spelled(name, se)
    if problem := network_problem(name, se, stride_in_3x3=stride_in_3x3):
        raise UserError(f"model.{problem}")
    network = NETWORKS[name]
    if max_pool not in network.max_pools:
        raise UserError(f"max_pool: {name} has no pooling that could be {max_pool}")
    options = Options(
        num_classes, block_of(name, se), network.dropout if dropout is None else dropout, bn_momentum, max_pool
    )
    numbers = network.numbers | {"stride_in": "3x3"} if stride_in_3x3 else network.numbers
    family = importlib.import_module(f"pipeline.models.{network.family}")
    device = torch.get_default_device()
    with torch.device("meta"):
        model: Network = family.build(options, **numbers)
    if device.type != "meta":
        allocate(model, device)
        initialise(model, seed)
    return model
