"""`python -m pipeline.running.torchrun N MODULE ...`: torchrun on one machine.

It ends when launch dies, and adds no messages to the stage's own.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import uuid
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
        launcher: Any = importlib.import_module("torch.distributed.launcher.api")
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Given to its API, not to its command line, which takes everything that is not named from PET_ variables. The
    # host's own name need not resolve to this machine, as on many laptops; "localhost" does.
    config = launcher.LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(processes),
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    logging.disable(logging.ERROR)
    try:
        launcher.elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except (ChildFailedError, SignalException):
        return EXIT_FAILED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
