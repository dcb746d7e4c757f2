"""The batch norms of a network replaced: frozen, synchronised between processes, or folded into convolutions.

The state dict stays that of `nn.BatchNorm2d`, but for folding, which leaves none.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import torch
import torch.distributed
from torch import nn

Scope = Literal["statistics", "statistics_and_affine"]
Model = TypeVar("Model", bound=nn.Module)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm that always uses its running statistics and never updates them, in train mode too.

    With `scope` "statistics" gamma and beta continue to learn; with
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


BatchNorm = nn.BatchNorm2d | FrozenBatchNorm2d


def freeze_batch_norms(model: nn.Module, scope: Scope) -> int:
    """Replace every batch norm of the model in place (appendix of the paper, change f). Returns their number.

    Replaced rather than switched to eval mode, since `model.train()`, which every training loop calls, would switch
    them back.
    """
    count = 0
    for parent, name, module, _ in _batch_norms(model):
        if isinstance(module, nn.BatchNorm2d):
            setattr(parent, name, FrozenBatchNorm2d(module, scope))
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


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace every batch norm of the model, in place, by one with the statistics of all processes' images."""
    on_gpu = next(model.parameters()).is_cuda
    for parent, name, module, _ in _batch_norms(model):
        if type(module) is nn.BatchNorm2d:
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm if on_gpu else CpuSyncBatchNorm2d
            setattr(parent, name, convert(module))


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


@torch.no_grad()
def fold_batch_norms(model: Model) -> Model:
    """Return a copy in eval mode without batch norms after convolutions; it computes the same as `model` in eval mode.

    Each convolution takes its batch norm, frozen or not, into its weights and a bias. They are computed in float64 and
    rounded once, to the type of the weights; device and memory layout stay. Batch norms of sums, first in a block or
    behind a stage as pre-activation has them, stay. `model` is not changed.
    """
    folded = copy.deepcopy(model)
    stay: set[nn.Module] = set()
    for parent, name, module, before in _batch_norms(folded):
        if before is None or isinstance(before, nn.Sequential):
            stay.add(module)
            continue
        assert isinstance(before, nn.Conv2d), f"no convolution comes right before {name}"
        _fold(module, before)
        setattr(parent, name, nn.Identity())
    left = [
        name
        for name, module in folded.named_modules()
        if "running_mean" in dict(module.named_buffers(recurse=False)) and module not in stay
    ]
    assert not left, f"{left[0]}: {type(folded.get_submodule(left[0]))}"
    return folded.eval()


def _fold(norm: BatchNorm, conv: nn.Conv2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale_C.view(-1, 1, 1, 1)
    bias_C = norm.bias.double() - norm.running_mean.double() * scale_C
    if conv.bias is not None:
        bias_C += conv.bias.double() * scale_C
    conv.bias = nn.Parameter(bias_C.to(conv.weight.dtype))
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype))


def _batch_norms(model: nn.Module) -> Iterator[tuple[nn.Module, str, BatchNorm, nn.Module | None]]:
    """Yield parent, name and module of each batch norm, and the module before it: children are registered in the order
    of computation."""
    for parent in list(model.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                yield parent, name, child, before
            before = child
