"""One stage of a run as a child process: start, outcome, exit code."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from launch.child import Supervisor, stage_command, stage_environment
from launch.console import complain, say
from pipeline.config.schema import Config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR, StopRequested
from pipeline.running.attempts import NOT_SAVED, Outcome, read_outcome, read_records
from pipeline.running.stage import PlacedStage
from pipeline.store.lock import in_turn, lock_holder
from pipeline.tracking.wording import duration


def run_stage(header: str, stage: PlacedStage, run: Path, config: Config, supervisor: Supervisor) -> int:
    """Run one stage to its end, report its outcome, and return its code."""
    processes = config.resources.processes if stage.stage.is_distributed else 1
    while True:
        if stage.current.is_shared:
            try:
                with in_turn(stage.directory, supervisor.stop, lambda text: say(f"{header}: {text}")):
                    pass
            except StopRequested as stopped:
                complain(f"{header}: {stopped}")
                return EXIT_STOPPED
            if stage.is_done:
                say(f"{header}: done by another process")
                return EXIT_DONE
        records = {part.directory: len(read_records(part.directory)) for part in stage.parts}
        started = time.monotonic()
        code = supervisor.run(stage_command(stage.name, run, processes), stage_environment(os.environ, processes))
        if supervisor.stop_reason is not None or not _was_overtaken(stage, records[stage.directory]):
            break
    took = duration(time.monotonic() - started)
    if stage.is_done:
        say(f"{header}: done in {took}")
        return EXIT_DONE
    noted = read_outcome(stage.directory, after=records[stage.directory])
    ending = _ending(stage, code, supervisor, noted, is_group=processes > 1)
    if ending.exit_code == EXIT_STOPPED:
        complain(f"{header}: stopped after {took}")
    else:
        complain(f"{header}: failed after {took}; {ending.message or f'its directory is {stage.directory}'}")
    return ending.exit_code


def _was_overtaken(stage: PlacedStage, known: int) -> bool:
    """Return whether another run of the sweep took the lock before these processes, so that they were refused.

    Otherwise their own start is recorded too, after the `known` lines.
    """
    if not stage.current.is_shared or lock_holder(stage.directory) is None:
        return False
    started = [record for record in read_records(stage.directory)[known:] if record["kind"] == "start"]
    return len(started) <= 1


@dataclasses.dataclass(frozen=True)
class _Ending:
    """How an unfinished stage ended."""

    exit_code: int
    message: str = ""
    """Message to print; empty if the stage's last line was it."""


def _ending(stage: PlacedStage, code: int, supervisor: Supervisor, noted: Outcome | None, *, is_group: bool) -> _Ending:
    """Return the outcome recorded by the stage, or else that of its process."""
    if supervisor.has_killed:
        return _Ending(EXIT_FAILED, NOT_SAVED)
    if noted is not None:
        # Of several processes each prints something, and one's error is another's consequence: say which came first.
        return _Ending(noted.exit_code, f"rank {noted.rank}: {noted.message}" if is_group else "")
    if not stage.directory.exists():
        return _Ending(EXIT_USER_ERROR, f"{stage.directory}: this folder was removed while the stage ran")
    if supervisor.stop_reason is not None:
        return _Ending(EXIT_STOPPED)
    if code == EXIT_USER_ERROR:
        return _Ending(code)
    if code < 0:
        name = signal.Signals(-code).name
        return _Ending(EXIT_FAILED, f"its process was killed by {name}" + " (out of memory?)" * (name == "SIGKILL"))
    return _Ending(EXIT_FAILED, f"it ended with code {code} and left no message" if is_group else "")
