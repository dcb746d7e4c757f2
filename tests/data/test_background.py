from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
import torch

from pipeline.data.background import SideStream, run_ahead

ON_CPU = SideStream(torch.device("cpu"))


class Source:
    """Counts up to 10, or to a fault, and records what it has produced."""

    def __init__(self, fault_at: int = 10) -> None:
        self.produced: list[int] = []
        self.five = threading.Event()
        self.closed_in: list[str] = []
        self._fault_at = fault_at

    def run(self) -> Generator[int]:
        try:
            for number in range(10):
                if number == self._fault_at:
                    raise ValueError(f"no number {number}")
                self.produced.append(number)
                if len(self.produced) == 5:
                    self.five.set()
                yield number
        finally:
            self.closed_in.append(threading.current_thread().name)


def test_items_are_produced_in_order_before_they_are_asked_for_and_no_more_than_allowed() -> None:
    source = Source()
    items = run_ahead(source.run(), 4, "test", ON_CPU)
    assert next(items) == 0
    assert source.five.wait(timeout=20)
    items.close()
    assert source.produced == [0, 1, 2, 3, 4]
    assert list(run_ahead(Source().run(), 4, "test", ON_CPU)) == list(range(10))


def test_a_fault_is_raised_behind_the_items_before_it() -> None:
    items = run_ahead(Source(fault_at=3).run(), 8, "test", ON_CPU)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no number 3"):
        next(items)


def test_closing_ends_the_thread_and_the_source() -> None:
    source = Source()
    items = run_ahead(source.run(), 2, "to-be-ended", ON_CPU)
    next(items)
    items.close()
    assert source.closed_in == [threading.current_thread().name]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("to-be-ended")]
