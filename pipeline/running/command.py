"""The command line of a single stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.reader import read_run_config
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.ground.stop import ignore_signals
from pipeline.running.stage import Stage
from pipeline.store.file import explain


def main(stages: Sequence[Stage]) -> int:
    """Parse the arguments, read the run's config, run the stage. Returns the exit code of the contract."""
    arguments = _parser(stages).parse_args()
    overrides = [f"freeze_bn.from_checkpoint={arguments.from_checkpoint}"] if arguments.from_checkpoint else []
    try:
        config = read_run_config(arguments.run, overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        if (sentence := explain(error)) is None:
            raise
        print(sentence, file=sys.stderr)
        return EXIT_USER_ERROR
    from pipeline.running.runner import run_stage

    code = run_stage(arguments.stage, config, arguments.run, stages)
    ignore_signals()
    return code


def _parser(stages: Sequence[Stage]) -> argparse.ArgumentParser:
    summaries = "\n".join(f"  {stage.name:<11}{stage.summary}" for stage in stages)
    parser = argparse.ArgumentParser(
        prog="python -m stages",
        description="Run one stage of a run, and nothing else. What it reads must be done.",
        epilog=f"stages:\n{summaries}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=[stage.name for stage in stages], metavar="STAGE", help="the stage to run")
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="the run directory, as made by `python -m launch`"
    )
    parser.add_argument(
        "--from-checkpoint", metavar="PATH", help="freeze the batch norms of this checkpoint, also another run's"
    )
    return parser
