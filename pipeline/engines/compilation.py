"""Compilation block by block: a network repeats a few kinds of blocks many times, and each kind is compiled once."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pipeline.models.senet import SEBottleneck

_KINDS = 64
"""Limit of kinds of blocks, well above that of any network; PyTorch's own limit is 8, and it silently leaves further
ones uncompiled. SENet-154 has 8 kinds: the first and the further blocks of its four stages."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> nn.Module:
    """Return the network with each `SEBottleneck` compiled; it shares the tensors of `network`, which is not changed.

    Little is lost against compiling the whole: a block ends with a ReLU and the next begins with convolutions, which
    the compiler does not fuse with preceding operations. The rest (stem, pooling, classifier) is not compiled.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS)
    compiled = _with_compiled_blocks(network, backend)
    assert compiled is not network, f"{type(network).__name__} has no block that is compiled"
    return compiled


def _with_compiled_blocks(module: nn.Module, backend: str) -> nn.Module:
    if isinstance(module, SEBottleneck):
        compiled: nn.Module = torch.compile(module, backend=backend, dynamic=False)  # type: ignore[assignment]
        return compiled
    if not any(isinstance(inner, SEBottleneck) for inner in module.modules()):
        return module
    outer = copy.copy(module)
    outer._modules = {name: _with_compiled_blocks(child, backend) for name, child in module.named_children()}
    return outer
