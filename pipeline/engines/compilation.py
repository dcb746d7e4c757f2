"""Compilation block by block: the network repeats a few kinds of blocks many times, and each kind is compiled once."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pipeline.models.senet import SEBottleneck

_KINDS = 64
"""How many kinds of blocks may be compiled, well above what a network has; PyTorch's own limit is 8, and it runs what
is beyond it uncompiled without a word. SENet-154 has 8 kinds: the first and the further blocks of its four stages."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> nn.Module:
    """The network with each `SEBottleneck` compiled, its tensors shared with `network`, which itself stays as it is.

    Little is lost against compiling the whole: a block ends with a ReLU and the next begins with convolutions, which
    the compiler fuses with nothing before them. What is outside the blocks (stem, pooling, classifier) stays as it is.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS)
    return _with_compiled_blocks(network, backend)


def _with_compiled_blocks(module: nn.Module, backend: str) -> nn.Module:
    if isinstance(module, SEBottleneck):
        compiled: nn.Module = torch.compile(module, backend=backend, dynamic=False)  # type: ignore[assignment]
        return compiled
    if not any(isinstance(inner, SEBottleneck) for inner in module.modules()):
        return module
    outer = copy.copy(module)
    outer._modules = {name: _with_compiled_blocks(child, backend) for name, child in module.named_children()}
    return outer
