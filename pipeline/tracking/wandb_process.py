"""The process that is one stage's W&B run: JSON lines in, warnings for the user out.

No step is given to W&B twice, although a stage that was killed does its last steps again, and none is left out as long
as this process lives to the end of its pipe, which it does when only the stage is killed. `wandb.json` in the stage's
directory says what W&B has. Offline, a life that was cut short left a torn file that nobody can upload; its folder is
removed and everything it had is handed over again from the event file. Online, what the client had not uploaded when
this process was killed is missing from W&B (never from the event file).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import queue
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from pipeline.runs.artifact import write_json
from pipeline.tracking.events import Event
from pipeline.tracking.wandb import CLOSE_SECONDS

STATE = "wandb.json"
INIT_SECONDS = 15.0
_PREFIXES = {"train": "train", "validation": "val"}


@dataclasses.dataclass
class Cursor:
    """What W&B has been given: the last step of each kind of event, and the crop plans."""

    train: int = 0
    validation: int = 0
    evaluation: tuple[str, ...] = ()

    def advance(self, event: Event) -> bool:
        """Move past the event; False where it was passed before."""
        if event["kind"] == "evaluation":
            if event["plan"] in self.evaluation:
                return False
            self.evaluation = (*self.evaluation, event["plan"])
            return True
        if event["global_step"] <= getattr(self, event["kind"]):
            return False
        setattr(self, event["kind"], event["global_step"])
        return True


@dataclasses.dataclass
class State:
    """The content of `wandb.json`."""

    id: str
    url: str | None = None
    sent: Cursor = dataclasses.field(default_factory=Cursor)
    open_fragment: str | None = None
    """Folder below the run's of an offline file that is being written."""
    sent_before: Cursor = dataclasses.field(default_factory=Cursor)
    """What had been sent when the offline file was begun."""


def read_state(directory: Path) -> State:
    """The state that earlier lives left, or a new one with an id of its own."""
    try:
        fields = json.loads((directory / STATE).read_text())
        cursors = {name: Cursor(**_tupled(fields[name])) for name in ("sent", "sent_before")}
        return State(**{**fields, **cursors})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return State(id=secrets.token_hex(6))


def write_state(directory: Path, state: State) -> None:
    """Replace the file in one step."""
    write_json(directory / STATE, dataclasses.asdict(state))


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "evaluation": tuple(fields["evaluation"])}


def metrics_of(event: Event, trained_steps: int) -> dict[str, Any]:
    """The event as W&B metrics, `train/loss` or `eval/10crop/top1_error_percent`, always with `global_step`."""
    fields = {name: value for name, value in event.items() if isinstance(value, int | float)}
    step = fields.pop("global_step", trained_steps)
    fields.pop("time")
    prefix = f"eval/{event['plan']}" if event["kind"] == "evaluation" else _PREFIXES[event["kind"]]
    return {"global_step": step, **{f"{prefix}/{name}": value for name, value in fields.items()}}


class WandbRun:
    """One life of a stage in W&B."""

    def __init__(self, begin: dict[str, Any], warnings: IO[str]) -> None:
        self._begin = begin
        self._directory = Path(begin["directory"])
        self._warnings = warnings
        self._state = read_state(self._directory)
        self._discard_torn_fragment()
        self._run = self._init()

    def send(self, events: list[Event]) -> None:
        """Log the events that W&B does not have yet; they count as sent just before, rather one missing than two."""
        fresh = [event for event in events if self._state.sent.advance(event)]
        if fresh:
            write_state(self._directory, self._state)
        for event in fresh:
            self._run.log(metrics_of(event, self._begin["trained_steps"]))

    def finish(self, exit_code: int, summary: dict[str, Any], tables: dict[str, Any]) -> None:
        """Hand over the results, and wait until everything is uploaded, or (offline) on disk."""
        import wandb

        self._run.summary.update(summary)
        for name, table in tables.items():
            self._run.log({name: wandb.Table(columns=table["columns"], data=table["rows"])})
        self._run.finish(exit_code=exit_code)
        self._state.open_fragment = None
        write_state(self._directory, self._state)

    def _init(self) -> Any:
        import wandb

        mode: Literal["online", "offline"] = self._begin["mode"]
        try:
            run = self._init_as(mode)
        except wandb.Error as error:
            if mode == "offline":
                raise
            self._warn(
                f"Weights & Biases cannot be reached ({_first_line(error)}); this stage is logged offline, "
                f"to be uploaded later with `wandb sync`"
            )
            mode = "offline"
            run = self._init_as(mode)
        run.define_metric("global_step", hidden=True)
        run.define_metric("*", step_metric="global_step")
        self._state.url = run.url or self._state.url
        if mode == "offline":
            fragment = Path(run.dir).parent
            self._state.open_fragment = str(fragment.relative_to(self._begin["run"]))
            self._state.sent_before = dataclasses.replace(self._state.sent)
        write_state(self._directory, self._state)
        return run

    def _init_as(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        watch_pid = self._begin["watch_pid"]
        settings = wandb.Settings(
            init_timeout=INIT_SECONDS,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=watch_pid is None,
            x_stats_pid=watch_pid or os.getpid(),
        )
        return wandb.init(
            mode=mode,
            dir=self._begin["run"],
            project=self._begin["project"],
            entity=self._begin["entity"],
            group=self._begin["group"],
            job_type=self._begin["job_type"],
            name=f"{self._begin['group']}/{self._begin['job_type']}",
            id=self._state.id,
            resume="allow",
            config=self._begin["config"],
            settings=settings,
        )

    def _discard_torn_fragment(self) -> None:
        """Remove the offline file that a killed life left behind, unless it was uploaded, and begin again before it."""
        if self._state.open_fragment is None:
            return
        folder = Path(self._begin["run"], self._state.open_fragment)
        if not list(folder.glob("*.synced")):
            shutil.rmtree(folder, ignore_errors=True)
            self._state.sent = self._state.sent_before
        self._state.open_fragment = None

    def _warn(self, text: str) -> None:
        warn(self._warnings, text)


def warn(pipe: IO[str], text: str) -> None:
    """Ask the stage to show a line; it may be gone."""
    with contextlib.suppress(OSError):
        pipe.write(json.dumps({"warning": text}) + "\n")
        pipe.flush()


def main() -> None:
    """Mirror the stage at the other end of standard input until it says how it ended, or dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    orders, warnings = _take_pipes()
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders, lines), daemon=True).start()
    first = lines.get()
    if first is None:
        return
    begin = json.loads(first)["begin"]
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        warn(warnings, f"Weights & Biases is not installed ({error}); the run's own event files have everything")
        return
    try:
        with _only_one(Path(begin["directory"])):
            _mirror(WandbRun(begin, warnings), lines)
    except Exception as error:
        warn(
            warnings,
            f"Weights & Biases gets no copy of this stage ({type(error).__name__}: {_first_line(error)}); "
            "the run's own event files have everything",
        )


def _mirror(run: WandbRun, lines: queue.SimpleQueue[str | None]) -> None:
    killed = {"finish": {"exit_code": 1, "summary": {}, "tables": {}}}
    while True:
        messages = [_parse(lines.get(), killed)]
        while not lines.empty():
            messages.append(_parse(lines.get(), killed))
        run.send([message["event"] for message in messages if "event" in message])
        for message in messages:
            if "finish" in message:
                run.finish(**message["finish"])
                return


def _parse(line: str | None, at_the_end: dict[str, Any]) -> dict[str, Any]:
    return at_the_end if line is None else json.loads(line)


def _read(orders: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Pass the lines on. When the stage has nothing more to say, this process has to come to its end too."""
    for line in orders:
        if line.endswith("\n"):
            lines.put(line)
    lines.put(None)
    threading.Event().wait(CLOSE_SECONDS)
    os._exit(1)


def _take_pipes() -> tuple[IO[str], IO[str]]:
    """Keep standard input and output for the stage alone: the client and its service get the null device."""
    orders, warnings = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return orders, warnings


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Wait for the process of an earlier life of the stage, which may still be saying its last words."""
    with (directory / ".wandb.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    main()
