"""The decisions of the job body before and after its srun: may this job start, and is it requeued?

`python -P -m launch.slurm.requeue start|end STAGE --run RUN --key KEY --job JOB`. It explains itself in the job's log
and answers with its exit code, which is the job's: 75 has the body requeue the job.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.slurm.decision import JobEnd, Verdict, decide, no_progress
from launch.slurm.job_attempts import note_job, note_job_end, outcome_of, progress, read_job_attempts
from launch.slurm.scheduler import all_nodes_answer
from pipeline.config.reader import read_run_config
from pipeline.config.schema import Config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, StopRequested, UserError
from pipeline.ground.stop import StopFlag
from pipeline.running.stage import PlacedStage, place_stages, refuse_busy
from pipeline.store.answer import answered
from pipeline.store.file import explain
from pipeline.store.lock import in_turn
from stages import STAGES


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Answer the job body. Returns the exit code for the job."""
    arguments = _parse(argv)
    return answered(lambda: _answer(arguments, environment), prefix=f"{arguments.stage}: ")


def _answer(arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    config = read_run_config(arguments.run)
    stage = _stage(arguments, config)
    if arguments.moment == "start":
        return _start(stage, config, arguments.job, environment)
    return _end(stage, config, arguments, environment)


def _start(stage: PlacedStage, config: Config, job: str, environment: Mapping[str, str]) -> int:
    """Record a new attempt; refuse it if too many made no progress or, but for a sweep, another process is at work."""
    stop = StopFlag()
    stop.install()
    for part in stage.parts:
        if part.is_shared:  # what another run of the sweep is making will be found done
            try:
                with in_turn(part.directory, stop, _say):
                    pass
            except StopRequested as stopped:
                _say(f"{stage.name}: {stopped}")
                return EXIT_STOPPED
        refuse_busy(part)
    stage.parts[0].directory.mkdir(parents=True, exist_ok=True)
    restart = _restarts(environment)
    saved = progress(stage, config.data.shards)
    given_up = no_progress(read_job_attempts(stage, job), saved)
    note_job(stage, job, restart, saved)
    again = "" if restart == 0 else f", restart {restart}"
    _say(f"{stage.name}: job {job} on {environment.get('SLURM_JOB_NODELIST', 'this node')}{again}")
    return EXIT_DONE if given_up is None else _settle(stage, job, Verdict(EXIT_FAILED, "failed", given_up))


def _end(stage: PlacedStage, config: Config, arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Record the end of the attempt and decide whether the job is requeued."""
    directory, job = stage.parts[0].directory, arguments.job
    if not directory.is_dir():
        raise UserError(f"{directory}: this folder was there when the job started, and is gone")
    attempts = read_job_attempts(stage, job)
    end = JobEnd(
        is_done=stage.is_done,
        outcome=outcome_of(stage, attempts[-1]) if attempts else None,
        code=arguments.code,
        nodes_answer=arguments.code == EXIT_DONE or all_nodes_answer(environment),
        was_warned=arguments.warned == "yes",
        state=arguments.state,
        is_requeued=arguments.restarts > _restarts(environment),
    )
    allowed_crashes = int(environment.get("SENET154_REQUEUE_ON_FAILURE", "0"))
    return _settle(stage, job, decide(end, attempts, progress(stage, config.data.shards), allowed_crashes))


def _restarts(environment: Mapping[str, str]) -> int:
    """Return the number of restarts of the job before this attempt."""
    return int(environment.get("SLURM_RESTART_COUNT", "0"))


def _settle(stage: PlacedStage, job: str, verdict: Verdict) -> int:
    """Print and record the verdict. Returns the exit code."""
    _say(f"{stage.name}: {verdict.ending}" + ("" if verdict.exit_code == EXIT_DONE else f": {verdict.reason}"))
    try:
        note_job_end(stage, job, verdict.ending, verdict.reason)
    except OSError as error:
        # The record only informs: a full disk must not make a sealed stage fail.
        _say(f"{stage.name}: this could not be recorded: {explain(error) or error}")
    return verdict.exit_code


def _stage(arguments: argparse.Namespace, config: Config) -> PlacedStage:
    """Place the job's stage. Raises UserError if the run's config has changed since."""
    name, run, key = arguments.stage, arguments.run, arguments.key
    placed = place_stages(config, run, STAGES)
    if name not in placed or placed[name].key != key:
        now = f"{name}-{placed[name].key}" if name in placed else "no such stage"
        raise UserError(
            f"{run}: its config.yaml (or a file that it names) has changed since this job was submitted, so this would "
            f"be another stage: {name}-{key} then, {now} now; change it back, or cancel the jobs and submit again"
        )
    return placed[name]


def _say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {text}", flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.slurm.requeue", description=__doc__)
    parser.add_argument("moment", choices=["start", "end"])
    parser.add_argument("stage")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--job", required=True, help="the job's id; `12_3` for a task of a job array")
    parser.add_argument("--code", type=int, default=0, help="srun's exit code")
    parser.add_argument("--warned", choices=["yes", "no"], default="no", help="whether the job was asked to stop")
    parser.add_argument("--state", default="", help="the job's state in squeue")
    parser.add_argument("--restarts", type=int, default=0, help="how often squeue says that it was started again")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
