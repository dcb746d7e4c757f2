"""The listeners of a stage's events: the terminal and, unless switched off, Weights & Biases."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from pipeline.config.operations import TrackingConfig
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, StopRequested, UserError
from pipeline.tracking.events import Listener
from pipeline.tracking.grace import GraceCheck, grace_seconds
from pipeline.tracking.terminal import Display, PlainDisplay, open_display
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import CONSOLE, WandbMirror
from pipeline.tracking.wandb_mode import choose_mode


@contextlib.contextmanager
def listening(settings: TrackingConfig, tracked: Tracked) -> Iterator[tuple[Listener, ...]]:
    """Yield the listeners of a stage's main process, and close them in any case within a bounded time.

    No listener ever raises into the stage. W&B gets the exit code with which the stage is about to end, and reads its
    results from the seal that is in its directory by then.
    """
    mode = choose_mode(settings.wandb)
    displays: list[Display] = [open_display(tracked.stage, sys.stdout)]
    with contextlib.suppress(OSError):  # information stops nothing
        displays += [] if mode == "disabled" else [PlainDisplay(tracked.stage, (tracked.directory / CONSOLE).open("w"))]

    def note(text: str, level: str = "warning") -> None:
        for display in displays:
            display({"kind": "note", "time": round(time.time(), 3), "level": level, "text": text})

    warning_seconds = grace_seconds(os.environ)
    grace = () if warning_seconds is None else (GraceCheck(tracked.checkpoint_seconds, warning_seconds, note),)
    mirror = None if mode == "disabled" else WandbMirror(settings, tracked, mode, note)
    exit_code = EXIT_FAILED
    try:
        yield (*displays, *grace)
        exit_code = EXIT_DONE
    except UserError:
        exit_code = EXIT_USER_ERROR
        raise
    except StopRequested:
        exit_code = EXIT_STOPPED
        raise
    finally:
        for display in displays[1:]:
            display.close()
        if mirror is not None:
            mirror.close(exit_code)
        displays[0].close()
