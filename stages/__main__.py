"""`python -m stages NAME --run RUN`: run one stage of a run that `launch` has set up."""

from __future__ import annotations

import signal
import sys

from pipeline.ground.stop import stop_with_parent

if __name__ == "__main__":
    # Before the imports, which take time: Ctrl-C would end them with a traceback, and launch may die meanwhile.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stop_with_parent()
    from pipeline.running.command import main
    from stages import STAGES

    sys.exit(main(STAGES))
