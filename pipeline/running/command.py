"""The command line of a single stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.reader import read_run_config
from pipeline.ground.stop import ignore_signals
from pipeline.running.stage import Stage
from pipeline.store.answer import answered


def main(stages: Sequence[Stage]) -> int:
    """Parse the arguments, read the run's config, run the stage. Returns the exit code of the contract."""
    arguments = _parser(stages).parse_args()
    code = answered(lambda: _run(arguments, stages))
    ignore_signals()
    return code


def _run(arguments: argparse.Namespace, stages: Sequence[Stage]) -> int:
    overrides = [f"freeze_bn.from_checkpoint={arguments.from_checkpoint}"] if arguments.from_checkpoint else []
    config = read_run_config(arguments.run, overrides)
    from pipeline.running.runner import run_stage  # a wrong --run is answered without importing it

    return run_stage(arguments.stage, config, arguments.run, stages)


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
