"""CUDA graphs without a GPU: PyTorch's own `make_graphed_callables`, with graphs that are lists of operators.

A replay runs what was recorded once more, on the same memory. So whatever a CUDA graph overwrites is overwritten here:
inputs, outputs, what backward needs, and the gradients it gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Recorder(TorchDispatchMode):
    """Operators as they come, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        known = {tensor.data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        made = [
            tensor if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in known else None
            for tensor in tree_leaves(results)
        ]
        self.calls.append(_memory_of((func, args, kwargs or {}, made)))
        return results


def _memory_of(call: Any) -> Any:
    """The same with every tensor bare of its autograd history, which a CUDA graph would not keep alive either."""
    return tree_map(lambda value: value.detach() if isinstance(value, torch.Tensor) else value, call)


class CpuGraph:
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.recorder.calls:
            for place, value in zip(made, tree_leaves(func(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(value)


@contextlib.contextmanager
def record(graph: CpuGraph, **options: Any) -> Iterator[None]:
    """In place of torch.cuda.graph."""
    with graph.recorder:
        yield


def capture(sections: tuple[nn.Module, ...], samples: tuple[tuple[torch.Tensor, ...], ...]) -> None:
    """In place of torch.cuda.make_graphed_callables, which it calls."""
    stand_ins: dict[str, Any] = {
        "CUDAGraph": CpuGraph,
        "graph": record,
        "Stream": mock.Mock(),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
    }
    with mock.patch.multiple(torch.cuda, **stand_ins), mock.patch("torch.cuda.graphs.graph_pool_handle"):
        torch.cuda.make_graphed_callables(sections, samples)


def leave_as_it_is(sections: tuple[nn.Module, ...], samples: tuple[tuple[torch.Tensor, ...], ...]) -> None:
    """A capture that captures nothing."""
