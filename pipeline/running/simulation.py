"""What a simulation finds out about a run without its GPUs; how, is in `pipeline.running.simulate`. Never imports torch."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Network:
    """The network of the recipe, whose claims about it (model.expect) hold."""

    parameters: int
    macs: int
    """Multiply-adds for one image."""
    claims: int
    """How many the recipe makes."""
    weight_bytes: int
    """Of parameters and running statistics, tensor by tensor."""
    checkpoint_bytes: int
    """Of these and momentum."""


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How the loaders of all ranks share the first epochs of the stream."""

    world_size: int
    num_images: int
    epochs: int
    """Whole epochs looked at."""
    steps: int
    """Optimizer steps that these take."""
    fewest: int
    """Images of the rank with the fewest."""
    most: int
    missing: int
    """Images that no rank sees in an epoch, over the whole epochs."""
    repeated: int
    """Images that are seen more than once in an epoch, over the whole epochs."""
    foreign: int
    """Places of the index that were asked for and do not exist."""

    @property
    def is_exact(self) -> bool:
        """Whether every image is seen exactly once an epoch, and as many by each rank."""
        return self.fewest == self.most and not (self.missing or self.repeated or self.foreign)


@dataclasses.dataclass(frozen=True)
class Simulation:
    """All that was found out."""

    network: Network
    sharding: Sharding

    @classmethod
    def from_json(cls, text: str) -> Simulation:
        """Back from what the module printed."""
        fields = json.loads(text)
        return cls(Network(**fields["network"]), Sharding(**fields["sharding"]))
