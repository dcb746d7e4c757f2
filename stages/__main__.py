"""`python -m stages NAME --run RUN`: run one stage of a run that `launch` has set up."""

from __future__ import annotations

import sys

from pipeline.running.command import main
from stages import STAGES

if __name__ == "__main__":
    sys.exit(main(STAGES))
