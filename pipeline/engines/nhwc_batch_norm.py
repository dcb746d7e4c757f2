"""NVIDIA Apex's batch norm for channels_last float16, fused with the ReLU behind it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn


def fuse_batch_norms(model: nn.Module) -> int:
    """Replace every pair of children `bn1` and `relu1` (`bn2`, ...) by Apex's one kernel for both; returns how many.

    Names and values of the state dict stay as they are. The network must be run under float16 autocast in
    channels_last, on the current CUDA device. A block's last batch norm keeps its own kernel: Apex can fuse one with an
    addition and ReLU, but here the gate multiplies in between.

    Apex's extension never frees a small host object that it makes in each call: about 430 bytes forward and as many
    backward, for each of these layers.
    """
    count = 0
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            relu = name.replace("bn", "relu")
            if type(child) is nn.BatchNorm2d and isinstance(getattr(parent, relu, None), nn.ReLU):
                setattr(parent, name, _fused(child))
                setattr(parent, relu, nn.Identity())
                count += 1
    return count


def _fused(source: nn.BatchNorm2d) -> nn.Module:
    groupbn = importlib.import_module("apex.contrib.groupbn")
    # The kernel's blocks wait for each other, and NCCL's kernels run beside it: multi_stream has them start together or
    # not at all.
    fused: nn.Module = groupbn.BatchNorm2d_NHWC(source.num_features, fuse_relu=True, multi_stream=True)
    fused.eps, fused.momentum = source.eps, source.momentum  # type: ignore[assignment]
    for name, parameter in source.named_parameters():
        fused.register_parameter(name, parameter)
    for name, buffer in source.named_buffers():
        fused.register_buffer(name, buffer)
    fused.register_forward_pre_hook(_to_nhwc)
    fused.register_forward_hook(_from_nhwc)
    return fused


def _to_nhwc(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    """Apex takes the channels as the last dimension, and reads the memory without looking at the strides."""
    if module.training:
        assert isinstance(module.num_batches_tracked, torch.Tensor)
        module.num_batches_tracked.add_(1)  # as nn.BatchNorm2d does, and Apex does not
    return inputs[0].permute(0, 2, 3, 1).contiguous()


def _from_nhwc(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    if output.requires_grad:
        output.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
    return output.permute(0, 3, 1, 2)
