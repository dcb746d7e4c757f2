"""The result of a simulation without GPUs: see `pipeline.running.simulate`. Imports no torch."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Network:
    """The recipe's network, after its claims (model.expect) were confirmed."""

    parameters: int
    macs: int
    """Multiply-adds for one image of `image_size_px`."""
    image_size_px: int
    claims: int
    """Number of claims in the recipe."""
    weight_bytes: int
    """Size of parameters and running statistics, tensor by tensor."""
    checkpoint_bytes: int
    """Size of these and momentum."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """The division of the first epochs of the stream among all ranks."""

    world_size: int
    num_images: int
    epochs: int
    """Number of whole epochs simulated."""
    steps: int
    """Optimizer steps of these epochs."""
    fewest: int
    """Images of the rank with the fewest."""
    most: int
    missing: int
    """Images that no rank sees in an epoch, over the whole epochs."""
    repeated: int
    """Images that are seen more than once in an epoch, over the whole epochs."""
    foreign: int
    """Requested positions that the index does not have."""

    @property
    def is_exact(self) -> bool:
        """Whether every image is seen exactly once an epoch, and equally many by each rank."""
        return self.fewest == self.most and not (self.missing or self.repeated or self.foreign)


@dataclasses.dataclass(frozen=True)
class Simulation:
    """The result of a simulation."""

    network: Network
    sharding: Sharding

    @classmethod
    def from_json(cls, text: str) -> Simulation:
        """Parse the module's output."""
        fields = json.loads(text)
        return cls(Network(**fields["network"]), Sharding(**fields["sharding"]))
