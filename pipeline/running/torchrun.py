"""`python -m pipeline.running.torchrun N MODULE ...`: torchrun on one machine.

It ends when launch dies, and adds no messages to the stage's own.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED
from pipeline.ground.gc_pause import paused_gc
from pipeline.ground.interpreter import LAUNCHER
from pipeline.ground.stop import stop_with_parent


def main(processes: str, module: str, arguments: Sequence[str]) -> int:
    """Run a module as several processes, without torchrun's own report of a failed or stopped one."""
    # Before the import of torch, which takes seconds in which launch may die.
    stop_with_parent()
    os.environ[LAUNCHER] = str(os.getpid())
    with paused_gc():
        run: Any = importlib.import_module("torch.distributed.run")
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The host's own name need not resolve to this machine, as on many laptops; "localhost" does.
    options = run.parse_args(["--standalone", "--local-addr=localhost", f"--nproc-per-node={processes}", "-m", module])
    # Bypasses its parser, which would take the module's options for abbreviations of its own.
    options.training_script_args = list(arguments)
    logging.disable(logging.ERROR)
    try:
        run.run(options)
    except (ChildFailedError, SignalException):
        return EXIT_FAILED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
