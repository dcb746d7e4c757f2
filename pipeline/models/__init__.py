"""The networks. Importing this package does not import torch; `create_model` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ground.errors import UserError
from pipeline.networks.registry import NETWORKS, MaxPool

if TYPE_CHECKING:
    from pipeline.models.network import Network


def create_model(
    name: str,
    num_classes: int,
    *,
    dropout: float | None = None,
    bn_momentum: float = 0.1,
    max_pool: MaxPool = "ceil",
    seed: int = 0,
) -> Network:
    """Return the network `name` of the registry, in training mode, on torch's current default device.

    It holds the initial weights of `seed` (see `initialise`), except under `torch.device("meta")`, where it costs
    neither time nor memory: to inspect it, or to load weights into it. `dropout`: the network's own if None. Raises
    UserError if the name is unknown.
    """
    import importlib

    import torch

    from pipeline.models.initialisation import allocate, initialise
    from pipeline.models.network import Options

    if name not in NETWORKS:
        raise UserError(f"model.name: there is no network '{name}' (there are: {', '.join(NETWORKS)})")
    network = NETWORKS[name]
    options = Options(num_classes, network.dropout if dropout is None else dropout, bn_momentum, max_pool)
    family = importlib.import_module(f"pipeline.models.{network.family}")
    device = torch.get_default_device()
    with torch.device("meta"):
        model: Network = family.build(options, **network.numbers)
    if device.type != "meta":
        allocate(model, device)
        initialise(model, seed)
    return model
