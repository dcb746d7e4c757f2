"""Frozen batch norms (appendix of the paper, change f): "the parameters of all BN layers were frozen".

The layers are replaced rather than switched to eval mode, since `model.train()`, which every training loop calls, would
switch them back.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import nn

Scope = Literal["statistics", "statistics_and_affine"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm that always uses its running statistics and never updates them, in train mode too.

    Its state dict is that of `nn.BatchNorm2d`. With `scope` "statistics" gamma and beta continue to learn; with
    "statistics_and_affine" they are buffers, so neither an optimizer nor DistributedDataParallel sees them.
    """

    def __init__(self, source: nn.BatchNorm2d, scope: Scope) -> None:
        super().__init__()
        self.eps = source.eps
        for name in ("weight", "bias"):
            parameter = getattr(source, name)
            if scope == "statistics":
                self.register_parameter(name, parameter)
            else:
                self.register_buffer(name, parameter.detach())
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(source, name))

    running_mean: torch.Tensor
    running_var: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W) to the same shape."""
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def freeze_batch_norms(model: nn.Module, scope: Scope) -> int:
    """Replace every batch norm of the model in place. Returns their number."""
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(child, scope))
                count += 1
    return count


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all frozen values, to check that none has changed."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer_name, buffer in module.named_buffers():
                digest.update(f"{name}.{buffer_name}".encode())
                digest.update(buffer.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
