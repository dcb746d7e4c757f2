"""The process that is one stage's W&B run: JSON lines in, warnings for the user out.

No step is given to W&B twice, although a stage that was killed does its last steps again, and none is left out: this
process outlives the stage until it has handed over what is in the pipe, and the next attempt begins with everything in
the event file that W&B does not have. `wandb.json` in the stage's directory says what that is. Where this process was
killed too, an offline run is a torn file that nobody can upload; its folder is removed and all it had is handed over
again. Online, what the client had not uploaded by then is missing from W&B (never from the event file).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from pipeline.tracking.events import Event
from pipeline.tracking.wandb_mirror import CLOSE_SECONDS
from pipeline.tracking.wandb_state import read_state, write_state

_MODULE = "pipeline.tracking.wandb_process"
_RECORD = "the run's own event files have everything"
_PREFIXES = {"train": "train", "validation": "val"}

Mode = Literal["online", "offline"]


@dataclasses.dataclass(frozen=True)
class Description:
    """The stage and where it belongs in W&B."""

    directory: str
    run: str
    project: str
    entity: str | None
    group: str
    job_type: str
    config: dict[str, Any]
    trained_steps: int
    """The step of the weights that the stage reads, for results that have no step of their own."""
    init_seconds: float
    watch_pid: int | None
    """The process whose load is sampled; None for no sampling."""


def metrics_of(event: Event, trained_steps: int) -> dict[str, Any]:
    """The event as W&B metrics, `train/loss` or `eval/10crop/top1_error_percent`, always with `global_step`."""
    fields = {name: value for name, value in event.items() if isinstance(value, int | float)}
    step = fields.pop("global_step", trained_steps)
    fields.pop("time")
    prefix = f"eval/{event['plan']}" if event["kind"] == "evaluation" else _PREFIXES[event["kind"]]
    return {"global_step": step, **{f"{prefix}/{name}": value for name, value in fields.items()}}


class WandbRun:
    """One attempt of a stage in W&B; a wandb.Error where the server cannot be reached."""

    def __init__(self, description: Description, mode: Mode) -> None:
        self._description = description
        self._directory = Path(description.directory)
        self._folder = Path(description.run)
        self._state = read_state(self._directory)
        self._discard_torn_fragment()
        write_state(self._directory, self._state)
        self._run = self._init(mode)
        self._run.define_metric("global_step", hidden=True)
        self._run.define_metric("*", step_metric="global_step")
        self._state.url = self._run.url or self._state.url
        if mode == "offline":
            self._state.open_fragment = str(Path(self._run.dir).parent.relative_to(self._folder))
            self._state.sent_before = dataclasses.replace(self._state.sent)
        write_state(self._directory, self._state)

    def send(self, events: list[Event]) -> None:
        """Log the events that W&B does not have yet; they count as sent just before, rather one missing than two."""
        fresh = [event for event in events if self._state.sent.advance(event)]
        if fresh:
            write_state(self._directory, self._state)
        for event in fresh:
            self._run.log(metrics_of(event, self._description.trained_steps))

    def finish(
        self, exit_code: int, summary: dict[str, Any], tables: dict[str, Any], scores: list[str], seconds: float
    ) -> None:
        """Hand over the results, and wait until everything is uploaded, or (offline) on disk.

        Score files become an artifact; offline it refers to them where they are, until it is uploaded. The mirror waits
        `seconds` for this.
        """
        import wandb

        self._run.summary.update(summary)
        for name, table in tables.items():
            self._run.log({name: wandb.Table(columns=table["columns"], data=table["rows"])})
        if scores:
            artifact = wandb.Artifact(f"{self._description.group}-{self._description.job_type}-scores", type="scores")
            for path in scores:
                # A finished stage's files never change, so the client need not copy them first.
                artifact.add_file(path, policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=exit_code)
        self._state.open_fragment = None
        write_state(self._directory, self._state)

    def _init(self, mode: Mode) -> Any:
        import wandb

        about = self._description
        settings = wandb.Settings(
            init_timeout=about.init_seconds,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=about.watch_pid is None,
            x_stats_pid=about.watch_pid or os.getpid(),
        )
        local = set(self._folder.glob("wandb/run-*"))
        try:
            return wandb.init(
                mode=mode,
                dir=about.run,
                project=about.project,
                entity=about.entity,
                group=about.group,
                job_type=about.job_type,
                name=f"{about.group}/{about.job_type}",
                id=self._state.id,
                resume="allow",
                config=about.config,
                settings=settings,
            )
        except wandb.Error:
            for empty in set(self._folder.glob("wandb/run-*")) - local:
                shutil.rmtree(empty, ignore_errors=True)
            raise

    def _discard_torn_fragment(self) -> None:
        """Remove the offline file that a killed attempt left behind, unless it was uploaded, and begin again before it."""
        if self._state.open_fragment is None:
            return
        folder = self._folder / self._state.open_fragment
        if not list(folder.glob("*.synced")):
            shutil.rmtree(folder, ignore_errors=True)
            self._state.sent = self._state.sent_before
        self._state.open_fragment = None


def main() -> None:
    """Mirror the stage at the other end of standard input until it says how it ended, or dies."""
    mode: Mode = "online" if sys.argv[1] == "online" else "offline"
    description = Description(**json.loads(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    orders, warnings = _take_pipes()
    try:
        import wandb
    except ImportError as error:
        _warn(warnings, f"Weights & Biases is not installed ({error}); {_RECORD}")
        return
    try:
        with _only_one(Path(description.directory)):
            _mirror(WandbRun(description, mode), orders)
    except wandb.Error as error:
        if mode == "online":
            text = "this stage is logged offline, for `wandb sync` to upload later"
            _warn(warnings, f"Weights & Biases cannot be reached ({_first_line(error)}); {text}")
            os._exit(_start_again_offline(orders, warnings))
        _give_up(warnings, error)
    except Exception as error:
        _give_up(warnings, error)


def _mirror(run: WandbRun, orders: IO[bytes]) -> None:
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders, lines), daemon=True).start()
    while True:
        batch = [lines.get()]
        while not lines.empty():
            batch.append(lines.get())
        messages = [_DEATH if line is None else json.loads(line) for line in batch]
        run.send([message["event"] for message in messages if "event" in message])
        for message in messages:
            if "finish" in message:
                run.finish(**message["finish"])
                return


_DEATH = {"finish": {"exit_code": 1, "summary": {}, "tables": {}, "scores": [], "seconds": CLOSE_SECONDS}}
"""What a stage that was killed would have said."""


def _read(orders: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    """Pass the lines on. When the stage has nothing more to say, this process has to come to its end too."""
    seconds = CLOSE_SECONDS
    for line in orders:
        if line.endswith(b"\n"):
            lines.put(line)
            seconds = json.loads(line).get("finish", {}).get("seconds", seconds)
    lines.put(None)
    threading.Event().wait(seconds)
    os._exit(1)


def _start_again_offline(orders: IO[bytes], warnings: IO[str]) -> int:
    """Do it all in another process, since the client's service goes on trying to reach the server for this run.

    Nothing was read from the pipe yet.
    """
    os.environ.pop("WANDB_SERVICE", None)
    return subprocess.call([sys.executable, "-P", "-m", _MODULE, "offline", sys.argv[2]], stdin=orders, stdout=warnings)


def _take_pipes() -> tuple[IO[bytes], IO[str]]:
    """Keep standard input and output for the stage alone: the client and its service get the null device."""
    orders, warnings = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return orders, warnings


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Wait for the process of an earlier attempt of the stage, which may still be saying its last words."""
    with (directory / ".wandb.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _warn(pipe: IO[str], text: str) -> None:
    """Ask the stage to show a line; it may be gone."""
    with contextlib.suppress(OSError):
        pipe.write(json.dumps({"warning": text}) + "\n")
        pipe.flush()


def _give_up(warnings: IO[str], error: Exception) -> None:
    _warn(
        warnings,
        f"Weights & Biases gets no copy of this stage ({type(error).__name__}: {_first_line(error)}); {_RECORD}",
    )
    os._exit(1)  # the client would wait for its service at a normal exit


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    main()
