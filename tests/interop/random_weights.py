"""Weights that no two tensors share and with which a deep network's scores stay small numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch


@torch.no_grad()
def randomise(tensors: Mapping[str, torch.Tensor], seed: int) -> None:
    """He weights, and statistics, scales and biases that are all different, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(0.0, math.sqrt(2.0 / tensor[0].numel()), generator=generator)
        elif name.endswith("weight"):  # of a batch norm
            tensor.uniform_(0.3, 1.0, generator=generator)
        else:
            tensor.normal_(0.0, 0.1, generator=generator)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference by the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
