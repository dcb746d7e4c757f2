"""Batch norms with statistics over all processes' images in training."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import nn


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace every batch norm of the model, in place; the state dict stays the same."""
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, CpuSyncBatchNorm2d(child))


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """nn.SyncBatchNorm for the CPU; PyTorch's runs on GPUs alone."""

    def __init__(self, source: nn.BatchNorm2d) -> None:
        super().__init__(source.num_features, source.eps, source.momentum, device="meta")
        self.weight, self.bias = source.weight, source.bias
        for name, buffer in source.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W) to the same shape; the statistics are float32 under autocast too."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        # Two passes, mean and then variance: the difference of large sums would cost the variance its digits.
        size = values.new_tensor(values.numel() / self.num_features)
        torch.distributed.all_reduce(size)
        mean = _sum_over_processes(values.sum((0, 2, 3))) / size
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / size
        self._follow(mean.detach(), variance.detach() * size / (size - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        for running, newest in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            assert self.momentum is not None
            running.lerp_(newest, self.momentum)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)


class _SumOverProcesses(torch.autograd.Function):
    """Sum over the processes. Every process's loss depends on it, so backward sums the gradients over them as well."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _SumOverProcesses.apply(values)
    return total
