"""Stand-in for `python -m torch.distributed.run` that ends when launch dies and leaves the last word to the stage."""

from __future__ import annotations

import logging
import sys

from pipeline.errors import EXIT_DONE, EXIT_FAILED
from pipeline.runs.preemption import stop_with_parent


def main() -> int:
    """What torchrun does with the same arguments, without its own report of a failed or stopped worker."""
    # Before torch is imported, which takes seconds in which launch may die.
    stop_with_parent()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)
    try:
        run.main()
    except (ChildFailedError, SignalException):
        return EXIT_FAILED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
