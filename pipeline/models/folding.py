"""Fold batch norms into the preceding convolutions, for inference."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pipeline.models.bn_freeze import FrozenBatchNorm2d
from pipeline.models.senet import SENet

BatchNorm = nn.BatchNorm2d | FrozenBatchNorm2d


@torch.no_grad()
def fold_batch_norms(model: SENet) -> SENet:
    """Return a copy in eval mode without batch norms that computes the same as `model` in eval mode.

    Each convolution takes its batch norm, frozen or not, into its weights and a bias. They are computed in float64 and
    rounded once, to the type of the weights; device and memory layout stay. `model` is not changed.
    """
    folded = copy.deepcopy(model)
    for parent in list(folded.modules()):
        previous: nn.Module | None = None
        # The modules of a SENet are registered in the order of computation.
        for name, module in list(parent.named_children()):
            if isinstance(module, BatchNorm):
                assert isinstance(previous, nn.Conv2d), f"no convolution comes right before {name}"
                _fold(module, previous)
                setattr(parent, name, nn.Identity())
            else:
                assert "running_mean" not in dict(module.named_buffers(recurse=False)), f"{name}: {type(module)}"
            previous = module
    return folded.eval()


def _fold(norm: BatchNorm, conv: nn.Conv2d) -> None:
    assert conv.bias is None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale_C.view(-1, 1, 1, 1)
    bias_C = norm.bias.double() - norm.running_mean.double() * scale_C
    conv.bias = nn.Parameter(bias_C.to(conv.weight.dtype))
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype))
