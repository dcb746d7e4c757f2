"""`python -m launch`, also installed as `senet154`."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pipeline.ground.errors import EXIT_FAILED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run the command, explain its errors. Returns the exit code of the contract."""
    try:
        # Here, so that Ctrl-C during the imports is no traceback either.
        from launch.command import parse
        from pipeline.store.answer import answered

        return answered(lambda: _do(parse(sys.argv[1:] if argv is None else argv)))
    except KeyboardInterrupt:
        return EXIT_FAILED


def _do(arguments: argparse.Namespace) -> int:
    """Run the command. Each imports its own modules: `--help` and a misspelt option answer at once."""
    from launch.command import request_of

    if getattr(arguments, "run", None) is not None:
        # A file or an impossible path is named as given, not by the path of something in it.
        with contextlib.suppress(FileNotFoundError):
            os.scandir(arguments.run).close()
    match arguments.command:
        case "plan":
            from launch.plan import print_plan

            given = ("config", "overrides", "run", "profile", "simulate", "other_configs", "seeds")
            return print_plan(*(getattr(arguments, name) for name in given))
        case "status":
            from launch.status import print_status, watch_status

            if arguments.watch is not None:
                return watch_status(arguments.run, arguments.watch)
            return print_status(arguments.run)
        case "cancel":
            from launch.slurm.cancel import cancel_run

            return cancel_run(arguments.run)
        case "logs":
            from launch.slurm.logs import print_logs

            return print_logs(arguments.run, arguments.stage, arguments.follow)
        case "weights":
            from launch.weights import convert_weights

            entry = getattr(arguments, "entry", None)
            return convert_weights(arguments.action, arguments.file, arguments.out, arguments.layout, entry)
        case "predict":
            from launch.predict import PredictRequest, predict

            return predict(request_of(PredictRequest, arguments))
        case "fuse":
            from launch.fuse import FuseRequest, fuse_scores

            return fuse_scores(request_of(FuseRequest, arguments))
        case "score":
            from launch.score import score_file

            return score_file(arguments.file, arguments.truth, arguments.blacklist, arguments.form)
        case "keys":
            from launch.keys import print_keys

            return print_keys(arguments.word, as_page=arguments.markdown)
        case "networks":
            from launch.networks import print_networks

            return print_networks(as_page=arguments.markdown)
        case "table":
            from launch.paper_table import print_table

            return print_table(arguments.name, arguments.runs, arguments.format)
        case "figure":
            from launch.figure import draw_figure

            return draw_figure(arguments.number, arguments.run, arguments.classes, arguments.blocks, arguments.out)
        case "tune":
            from launch.tune import print_tuning

            return print_tuning(arguments.config, arguments.overrides, again=arguments.again)
        case "check":
            from launch.slurm.check import check_profile_on_cluster

            return check_profile_on_cluster(arguments.profile, arguments.run)
        case "submit":
            from launch.slurm.submission import SubmitRequest
            from launch.slurm.submit import submit_runs

            return submit_runs(request_of(SubmitRequest, arguments))
        case _:
            from launch.run import RunRequest, run_stages

            return run_stages(request_of(RunRequest, arguments))


if __name__ == "__main__":
    sys.exit(main())
