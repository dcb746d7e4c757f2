"""Compilation of a network: block by block if it repeats a few kinds of blocks many times, or as a whole."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from pipeline.models.network import Network

_KINDS = 64
"""Limit of kinds of blocks, well above that of any network; PyTorch's own limit is 8, and it silently leaves further
ones uncompiled. A network of four stages has 8 kinds: the first and the further blocks of each."""
_FEW = 8
"""Blocks up to which the whole is compiled: as many as there may be kinds."""


def compile_network(network: nn.Module, backend: str = "inductor") -> nn.Module:
    """Return the network compiled; it shares the tensors of `network`, which is not changed.

    A network of up to 8 blocks is compiled as a whole, since few of them repeat; any other block by block.
    """
    if isinstance(network, Network) and len(network.blocks()) <= _FEW:
        whole: nn.Module = torch.compile(network, backend=backend, dynamic=False)  # type: ignore[assignment]
        return whole
    return compile_blocks(network, backend)


def compile_blocks(network: nn.Module, backend: str = "inductor") -> nn.Module:
    """Return the network with each of its blocks compiled; it shares the tensors of `network`, which is not changed.

    Little is lost against compiling the whole where a block ends with a ReLU or a sum and the next begins with
    convolutions, which the compiler does not fuse with preceding operations. Pre-activation blocks begin with a batch
    norm, which it would. The rest (stem, pooling, classifier) is not compiled.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS)
    assert isinstance(network, Network), f"{type(network).__name__} has no block that is compiled"
    return _with_compiled(network, network.blocks().keys(), backend)


def _with_compiled(module: nn.Module, blocks: Collection[str], backend: str, prefix: str = "") -> nn.Module:
    outer = copy.copy(module)
    outer._modules = dict(module._modules)
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if full in blocks:
            outer._modules[name] = torch.compile(child, backend=backend, dynamic=False)  # type: ignore[assignment]
        elif any(block.startswith(f"{full}.") for block in blocks):
            outer._modules[name] = _with_compiled(child, blocks, backend, f"{full}.")
    return outer
