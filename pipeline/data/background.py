"""Iterators that run in a thread of their own, ahead of the thread that takes their items."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def run_ahead(source: Generator[Item], ahead: int, thread_name: str, stream: SideStream) -> Generator[Item]:
    """Yield the items of `source`, which a thread produces before they are asked for, `ahead` at most.

    An exception of the source is raised in the place of the item. Closing waits for the item in production, and closes
    the source.
    """
    end = object()
    with (
        contextlib.closing(source),
        ThreadPoolExecutor(1, thread_name_prefix=thread_name, initializer=stream.enter) as thread,
    ):
        waiting = collections.deque(thread.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, source, end))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)


class SideStream:
    """The CUDA stream of a device for the threads behind all iterators, and nothing on the CPU.

    On the stream of the training, a batch that is decoded long before its turn would hold up the steps before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = _side_stream(device)

    def enter(self) -> None:
        """Make it the current stream of this thread."""
        if self._stream is not None:
            torch.cuda.set_stream(self._stream)

    def hand_over(
        self, source: Iterator[Item], ahead: int, tensors: Callable[[Item], Iterator[torch.Tensor]]
    ) -> Generator[Item]:
        """Yield the items that a thread on this stream produces; their `tensors` are valid on the caller's stream."""
        with contextlib.closing(run_ahead(self._recorded(source), ahead, "loader", self)) as recorded:
            for item, event in recorded:
                if event is not None and self._stream is not None:
                    current = torch.cuda.current_stream(self._stream.device)
                    current.wait_event(event)
                    for tensor in tensors(item):
                        if tensor.is_cuda:
                            tensor.record_stream(current)
                yield item

    def _recorded(self, source: Iterator[Item]) -> Generator[tuple[Item, torch.cuda.Event | None]]:
        for item in source:
            yield item, None if self._stream is None else self._stream.record_event()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: what is freed on a stream is kept for that stream alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
