"""The networks. Importing this package does not import torch; `create_model` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ground.errors import UserError
from pipeline.networks.spec import SPECS, MaxPool

if TYPE_CHECKING:
    from pipeline.models.senet import SENet


def create_model(
    name: str,
    num_classes: int,
    *,
    dropout: float = 0.2,
    bn_momentum: float = 0.1,
    max_pool: MaxPool = "ceil",
    seed: int = 0,
) -> SENet:
    """Return the network `name` of `SPECS`, in training mode, on torch's current default device.

    It holds the initial weights of `seed` (see `senet.initialise`), except under `torch.device("meta")`, where it costs
    neither time nor memory: to inspect it, or to load weights into it. Raises UserError if the name is unknown.
    """
    import torch

    from pipeline.models.senet import SENet, allocate, initialise

    if name not in SPECS:
        raise UserError(f"model.name: there is no network '{name}' (there are: {', '.join(SPECS)})")
    device = torch.get_default_device()
    with torch.device("meta"):
        model = SENet(SPECS[name], num_classes, dropout=dropout, bn_momentum=bn_momentum, max_pool=max_pool)
    if device.type != "meta":
        allocate(model, device)
        initialise(model, seed)
    return model
