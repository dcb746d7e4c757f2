"""The output of every loader; the code behind a loader need not know which one it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import torch


@dataclasses.dataclass(frozen=True)
class Batch:
    """Training images as decoded and cropped; normalisation and the rest of the augmentation follow on the device.

    N images, S pixels a side: those of the network's input, or more if it is sampled from them.
    """

    images: torch.Tensor
    """(N, 3, S, S) uint8 RGB, channels-last in memory; on the CPU, or on the GPU that decoded it."""
    labels: torch.Tensor
    """(N,) int64."""
    positions: torch.Tensor
    """(N,) int64: each image's row in the index."""
    affine: torch.Tensor
    """(N, 2, 3) float32: from the network's input to the image, see `Sampling`; the identity if nothing is rotated."""
    size_px: int
    """Side of the network's input."""
    hidden: torch.Tensor | None = None
    """(N, 1, S, S) bool: pixels of the network's input that are zero after normalisation: padding and Cutout. None: no
    pixel is."""


CropImages = torch.Tensor | tuple[torch.Tensor, ...]
"""A crop of N images, (N, 3, S, S) uint8, or the whole images, N times (3, H, W) of any size."""


@dataclasses.dataclass(frozen=True)
class PlanBatch:
    """Evaluation images: every crop of the crop plan, taken from one decoding of each image."""

    crops: tuple[CropImages, ...]
    """One for each requested crop; S is its crop size. Whole images if it has none."""
    labels: torch.Tensor
    positions: torch.Tensor


class TrainLoader(Protocol):
    """This rank's part of the stream as micro-batches, from the state's step to the last."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return plain values (JSON): the next `step`, the digest of the `index`, and the `stream_version`.

        Valid between steps: after all micro-batches of a step were taken and before the next one is.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at `state`. Raises UserError if it is of another index or stream version."""
        ...

    def close(self) -> None:
        """Release threads and buffers."""
        ...
