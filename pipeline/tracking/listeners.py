"""Who hears of a stage's events: the person at the terminal and, unless switched off, Weights & Biases."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, StopRequested, UserError
from pipeline.running.stage import PlacedStage
from pipeline.tracking.events import Listener
from pipeline.tracking.grace import GraceCheck, grace_seconds
from pipeline.tracking.terminal import open_display
from pipeline.tracking.wandb_mirror import WandbMirror, choose_mode

_LAST_STAGE = "report"


@contextlib.contextmanager
def listening(config: Config, placed: PlacedStage, run: Path) -> Iterator[tuple[Listener, ...]]:
    """The listeners of a stage's main process, closed in the end whatever happened and within a bounded time.

    No listener ever raises into the stage. W&B is told the exit code that the stage is about to end with.
    """
    display = open_display(placed.name, sys.stdout)

    def note(text: str, level: str = "warning") -> None:
        display({"kind": "note", "time": round(time.time(), 3), "level": level, "text": text})

    warning_seconds = grace_seconds(os.environ)
    grace = () if warning_seconds is None else (GraceCheck(placed.directory, warning_seconds, note),)
    mode = choose_mode(config.tracking.wandb)
    mirror = None if mode == "disabled" else WandbMirror(config, placed, run, mode, note)
    exit_code = EXIT_FAILED
    try:
        yield (display, *grace, *(() if mirror is None else (mirror,)))
        exit_code = EXIT_DONE
    except UserError:
        exit_code = EXIT_USER_ERROR
        raise
    except StopRequested:
        exit_code = EXIT_STOPPED
        raise
    finally:
        if mirror is not None:
            mirror.close(exit_code)
            if mode == "offline" and placed.name == _LAST_STAGE and exit_code == EXIT_DONE:
                folders = f"{shlex.quote(str(run / 'wandb'))}/offline-run-*"
                note(f'W&B was offline; to upload: for run in {folders}; do wandb sync "$run"; done', "info")
        display.close()
