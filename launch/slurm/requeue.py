"""What the job body asks before and after its srun: may this job start, and does it come back?

`python -m launch.slurm.requeue start|end STAGE --run RUN --key KEY`. It explains itself in the job's log and answers
with its exit code, which is the job's: 75 has the body requeue the job. The attempts of a job are counted in the stage's
`slurm.jsonl`, since a node that fails gives it no time to say anything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.slurm.scheduler import all_nodes_answer
from pipeline.config.reader import read_run_config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, UserError
from pipeline.running.outcome import Outcome, clear_outcome, read_outcome
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.file import naming
from pipeline.store.journal import append_record
from pipeline.store.lock import DirectoryBusy, busy_message, lock_holder
from stages import STAGES

HISTORY = "slurm.jsonl"
MAX_FRUITLESS_RESTARTS = 3
"""As many attempts in a row may end without anything newer saved; then the job fails rather than to come back for ever."""
_SAVED = ("checkpoints/step-*", "parts-*/[!.]*.part", "scores-*.npy", "scan/[!.]*.json")
"""Below a stage's directory; without what a killed process left under a temporary name."""


@dataclasses.dataclass(frozen=True)
class JobAttempt:
    """One start of a job."""

    job: str
    restart: int
    """0 for the first attempt of a job."""
    time: float
    """Unix seconds."""
    saved: str
    """What was saved of the stage when it started, in a form that changes whenever more is."""
    ending: str | None = None
    """requeued, done, failed; None while it attempts and where it had no time to say."""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of the job."""

    exit_code: int
    reason: str
    is_requeued: bool = False
    """Whether SLURM has put the job back into the queue itself, so that its exit code means nothing."""

    @property
    def ending(self) -> str:
        """done, requeued or failed."""
        if self.is_requeued:
            return "requeued"
        return {EXIT_DONE: "done", EXIT_STOPPED: "requeued"}.get(self.exit_code, "failed")


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Returns the exit code for the job."""
    arguments = _parse(argv)
    try:
        if arguments.moment == "start":
            return start(arguments.stage, arguments.run, arguments.key, environment)
        return end(arguments, environment)
    except UserError as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR


def start(name: str, run: Path, key: str, environment: Mapping[str, str]) -> int:
    """Count a new attempt; refuse it where the config has changed, another process is at work, or nothing came of the
    attempts before."""
    stage = _stage(name, run, key)
    with naming(stage.directory):
        stage.directory.mkdir(exist_ok=True)
    holder = lock_holder(stage.directory)
    if holder is not None:
        raise DirectoryBusy(busy_message(stage.directory, holder))
    # Who is killed at once leaves no note, and the last attempt's must not be taken for it.
    clear_outcome(stage.directory)
    job, restart = job_id(environment), _restarts(environment)
    attempt = JobAttempt(job, restart, round(time.time(), 3), progress(stage))
    wasted = restarts_without_progress(_attempts_of(stage.directory, job), attempt.saved)
    _append(stage.directory, dataclasses.asdict(attempt))
    again = "" if restart == 0 else f", started again for the {_ordinal(restart)} time"
    _say(f"{name}: job {job} on {environment.get('SLURM_JOB_NODELIST', 'this node')}{again}")
    if wasted >= MAX_FRUITLESS_RESTARTS:
        return _settle(stage, Verdict(EXIT_FAILED, _no_progress(wasted)))
    return EXIT_DONE


def end(arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Record how the attempt ended and decide whether the job comes back."""
    stage = _stage(arguments.stage, arguments.run, arguments.key)
    if not stage.directory.is_dir():
        raise UserError(f"{stage.directory}: this folder was there when the job started, and is gone")
    attempts = _attempts_of(stage.directory, job_id(environment))
    verdict = decide(
        is_done=stage.is_done,
        outcome=read_outcome(stage.directory),
        code=arguments.code,
        nodes_answer=arguments.code in (EXIT_DONE, EXIT_USER_ERROR) or all_nodes_answer(environment),
        was_warned=arguments.warned == "yes",
        state=arguments.state,
        is_requeued=arguments.restarts > _restarts(environment),
        wasted=restarts_without_progress(attempts, progress(stage)),
        crashes=sum(attempt.reason.startswith("crashed") for attempt in attempts),
        allowed_crashes=int(environment.get("SENET154_REQUEUE_ON_FAILURE", "0")),
    )
    return _settle(stage, verdict)


def decide(
    *,
    is_done: bool,
    outcome: Outcome | None,
    code: int,
    nodes_answer: bool,
    was_warned: bool,
    state: str,
    is_requeued: bool,
    wasted: int,
    crashes: int,
    allowed_crashes: int,
) -> Verdict:
    """The rule, from what is known when srun has ended.

    `outcome` is the stage's note, `code` srun's exit code, `nodes_answer` whether all nodes of the job do, `state` the
    job's state in squeue, `is_requeued` whether SLURM counts another start of it already (`scontrol requeue`, a node
    that failed), `wasted` how many attempts in a row, this one included, have saved nothing new, `crashes` how many attempts
    before this one crashed.
    """
    if is_done:
        return Verdict(EXIT_DONE, "done")
    if is_requeued:
        reason = f"killed, or ended with code {code}" if outcome is None else outcome.message
        return Verdict(EXIT_FAILED, f"by SLURM itself; {reason}", is_requeued=True)
    is_stopped = was_warned if outcome is None else outcome.exit_code == EXIT_STOPPED
    if is_stopped:
        reason = "stopped before it had begun" if outcome is None else outcome.message
    elif not nodes_answer:
        # The other nodes' processes crash of it long before SLURM calls it down and requeues the job by itself.
        reason = "a node of the job does not answer any more"
    else:
        kind = _failure(outcome, code)
        if kind.exit_code == EXIT_USER_ERROR or crashes >= allowed_crashes:
            limit = f"; that was crash {crashes + 1} of at most {allowed_crashes + 1}" if crashes else ""
            return Verdict(kind.exit_code, f"{kind.reason}{limit}")
        reason = f"crashed ({crashes + 1} of at most {allowed_crashes} times that it is started again): {kind.reason}"
    if state != "RUNNING":
        # Cancelled or out of time: coming back would be against somebody's will.
        return Verdict(EXIT_FAILED, f"{reason}; not requeued from here, since SLURM has the job as {state or 'gone'}")
    if wasted >= MAX_FRUITLESS_RESTARTS:
        return Verdict(EXIT_FAILED, f"{_no_progress(wasted)}; the last one: {reason}")
    return Verdict(EXIT_STOPPED, reason)


def job_id(environment: Mapping[str, str]) -> str:
    """The job's name in SLURM's commands: `12`, or `12_3` for a task of a job array."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def restarts_without_progress(attempts: Sequence[JobAttempt], saved: str) -> int:
    """How many of the last attempts in a row have left no more than `saved`, which is what is saved now."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.saved != saved:
            break
        count += 1
    return count


def progress(stage: PlacedStage) -> str:
    """What is saved of a stage, in a form that changes whenever more is: checkpoints, finished parts of scores, images
    that were checked, shards."""
    directory = stage.directory
    names = sorted(str(path.relative_to(directory)) for pattern in _SAVED for path in directory.glob(pattern))
    shards = stage.config_part["data"]["shards"] if stage.name == "prepare" else None
    if shards is not None:
        names += sorted(path.name for path in Path(shards).glob("[!.]*.tar"))
    return f"{len(names)}: {names[-1]}" if names else "nothing"


def read_job_attempts(directory: Path) -> list[JobAttempt]:
    """All attempts of all jobs of a stage directory, in order."""
    attempts: list[JobAttempt] = []
    try:
        lines = (directory / HISTORY).read_text().splitlines()
    except FileNotFoundError:
        return attempts
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:  # torn by a full disk or a kill
            continue
        if "saved" in fields:
            attempts.append(JobAttempt(**fields))
        elif attempts:
            attempts[-1] = dataclasses.replace(attempts[-1], ending=fields["ending"], reason=fields["reason"])
    return attempts


def _restarts(environment: Mapping[str, str]) -> int:
    """How often the job had been started again when this attempt began."""
    return int(environment.get("SLURM_RESTART_COUNT", "0"))


def _attempts_of(directory: Path, job: str) -> list[JobAttempt]:
    return [attempt for attempt in read_job_attempts(directory) if attempt.job == job]


def _settle(stage: PlacedStage, verdict: Verdict) -> int:
    _append(stage.directory, {"ending": verdict.ending, "reason": verdict.reason})
    _say(f"{stage.name}: {verdict.ending}" + ("" if verdict.exit_code == EXIT_DONE else f": {verdict.reason}"))
    return verdict.exit_code


def _failure(outcome: Outcome | None, code: int) -> Verdict:
    if outcome is not None:
        return Verdict(outcome.exit_code, f"rank {outcome.rank}: {outcome.message}")
    if code == EXIT_USER_ERROR:
        return Verdict(EXIT_USER_ERROR, "refused to start; its message is above")
    if code > 128:
        return Verdict(EXIT_FAILED, f"killed by signal {code - 128} without a word (out of memory?)")
    return Verdict(EXIT_FAILED, f"its processes ended with code {code} and left no message")


def _no_progress(wasted: int) -> str:
    return (
        f"started {wasted} times in a row without saving anything new; it does not come back. Look into the log, then "
        "submit again: a longer time limit, more frequent checkpoints (checkpoint.every_steps) or an earlier warning "
        "(warning_seconds of the profile) may be what it needs"
    )


def _stage(name: str, run: Path, key: str) -> PlacedStage:
    """The stage that the job was submitted for; UserError where the run's config now stands for another one."""
    placed = place_stages(read_run_config(run), run, STAGES)
    if name not in placed or placed[name].key != key:
        now = placed[name].directory.name if name in placed else "no such stage"
        raise UserError(
            f"{run}: its config.yaml (or a file that it names) has changed since this job was submitted, so this would "
            f"be another stage: {name}-{key} then, {now} now; change it back, or cancel the jobs and submit again"
        )
    return placed[name]


def _append(directory: Path, fields: Mapping[str, object]) -> None:
    append_record(directory / HISTORY, fields)


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _say(text: str) -> None:
    print(f"{time.strftime('%F %T')} {text}", flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.slurm.requeue", description=__doc__)
    parser.add_argument("moment", choices=["start", "end"])
    parser.add_argument("stage")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--code", type=int, default=0, help="srun's exit code")
    parser.add_argument("--warned", choices=["yes", "no"], default="no", help="whether the job was asked to stop")
    parser.add_argument("--state", default="", help="the job's state in squeue")
    parser.add_argument("--restarts", type=int, default=0, help="how often squeue says that it was started again")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
