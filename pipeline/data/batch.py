"""What every loader yields, so that nothing behind a loader knows which one it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import torch


@dataclasses.dataclass(frozen=True)
class Batch:
    """Training images as decoded and cropped; normalisation and the rest of the augmentation follow on the device.

    N images, S pixels a side.
    """

    images: torch.Tensor
    """(N, 3, S, S) uint8 RGB, channels-last in memory; on the CPU, or on the GPU where it was decoded."""
    labels: torch.Tensor
    """(N,) int64."""
    positions: torch.Tensor
    """(N,) int64: each image's row in the index."""
    angles: torch.Tensor
    """(N,) float32: rotation in degrees that is still to be done; zeros where the recipe has none."""


CropImages = torch.Tensor | tuple[torch.Tensor, ...]
"""What a crop shows of N images: crops, (N, 3, S, S) uint8; or whole images, N times (3, H, W) of any size."""


@dataclasses.dataclass(frozen=True)
class PlanBatch:
    """Evaluation images: every crop of the crop plan, cut from one decoding of each image."""

    crops: tuple[CropImages, ...]
    """One for each crop asked for; S is that crop's crop size, and it is whole images where that has none."""
    labels: torch.Tensor
    positions: torch.Tensor


class TrainLoader(Protocol):
    """This rank's share of the stream as micro-batches, from the step where the state stands to the last step."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values (JSON): the next step, and a fingerprint of everything that decides what is read.

        Valid between steps: after all micro-batches of a step were taken and before the next one is.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. UserError that lists the differences where it was taken on other data."""
        ...

    def close(self) -> None:
        """Release threads and buffers."""
        ...
