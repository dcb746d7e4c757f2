"""The networks by name: family, numbers and source. Imports no torch.

A row's family is a module of `pipeline.models`, whose `build` takes the row's numbers. Its layers, sizes and costs are
not computed from the numbers but traced (`pipeline.models.tracing`) and kept in the folder `tables`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

MaxPool = Literal["ceil", "padded"]
"""The first pooling, 3x3 with stride 2. The authors' is not padded and rounds up; some ports pad by 1 and round down,
which shifts every pooling window by one pixel up and to the left. Their weights reach their accuracy with it only."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A row of the registry."""

    name: str
    family: str
    """Module of `pipeline.models` that builds it."""
    numbers: Mapping[str, Any]
    """Keyword arguments of the family's `build`."""
    source: str
    has_se: bool = False
    """Whether the name stands for the network with the paper's default block."""
    image_size_px: int = 224
    """Side of the images that the network was made for."""
    dropout: float = 0.0
    """Share of the features that is dropped at random in training, before the classifier."""


def _resnet(
    name: str,
    blocks: tuple[int, ...],
    source: str,
    *,
    divisors: tuple[int, int],
    groups: int = 1,
    **changes: Any,
) -> Network:
    numbers = {
        "stem": (64,),
        "widths": (256, 512, 1024, 2048),
        "blocks": blocks,
        "divisors": divisors,
        "groups": groups,
    }
    fields = {key: changes.pop(key) for key in ("has_se", "image_size_px", "dropout") if key in changes}
    return Network(name, "resnet", numbers | changes, source, **fields)


def _rows() -> Iterator[Network]:
    appendix = {"stem": (64, 64, 128), "projection_kernel": 3, "has_se": True, "dropout": 0.2}
    yield _resnet(
        "senet154",
        (3, 8, 36, 3),
        "the paper's appendix; SENet-154.prototxt: 3 stem convolutions + 50 blocks x 3 + 1 classifier = 154",
        divisors=(2, 1),
        groups=64,
        **appendix,
    )
    # With 16 groups the three stages have 2, 4 and 8 input channels a group, as the first three of SENet-154 have.
    yield _resnet(
        "senet_nano",
        (1, 2, 1),
        "SENet-154's blocks for images of 32 px on a CPU",
        divisors=(2, 1),
        groups=16,
        **appendix | {"stem": (16, 16, 32), "widths": (64, 128, 256), "image_size_px": 32},
    )


NETWORKS: Mapping[str, Network] = {network.name: network for network in _rows()}
