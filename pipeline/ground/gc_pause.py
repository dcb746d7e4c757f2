"""The collector of reference cycles, which goes through all there is again and again while modules are imported."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """No collections in here; where modules were imported, later ones leave out what there is by then.

    PyTorch with its compiler makes 600,000 objects that stay to the end of the process. Going through them costs a
    fifth of its import, and as much again each time all of them are gone through later.
    """
    was_enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
            # Extension modules report as leaks what Python does not collect at its end.
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()
