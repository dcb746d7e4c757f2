"""Pause Python's cyclic garbage collector during heavy imports."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """Disable garbage collection; on exit, exempt the objects of newly imported modules from later collections.

    PyTorch with its compiler makes 600,000 objects that stay until the process ends. Traversing them costs a fifth of
    its import, and as much again at each later full collection.
    """
    was_enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
            # Extension modules report objects that Python does not collect at its end as leaks.
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()
