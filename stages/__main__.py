"""`python -m stages NAME --run RUN`: run one stage of a run that `launch` has set up."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.config.reader import read_run_config
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.ground.stop import ignore_signals
from stages import STAGES


def main() -> int:
    """Parse, read the run's config, run the stage."""
    arguments = _parser().parse_args()
    overrides = [f"freeze_bn.from_checkpoint={arguments.from_checkpoint}"] if arguments.from_checkpoint else []
    try:
        config = read_run_config(arguments.run, overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    from pipeline.running.runner import run_stage

    code = run_stage(arguments.stage, config, arguments.run)
    ignore_signals()
    return code


def _parser() -> argparse.ArgumentParser:
    summaries = "\n".join(f"  {spec.name:<11}{spec.summary}" for spec in STAGES)
    parser = argparse.ArgumentParser(
        prog="python -m stages",
        description="Run one stage of a run, and nothing else. What it reads must be done.",
        epilog=f"stages:\n{summaries}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=[spec.name for spec in STAGES], metavar="STAGE", help="the stage to run")
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="the run directory, as made by `python -m launch`"
    )
    parser.add_argument(
        "--from-checkpoint", metavar="PATH", help="freeze the batch norms of this checkpoint, also another run's"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
