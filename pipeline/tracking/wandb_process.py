"""The process that copies one stage into the run's W&B run, following the stage's journal until its end.

No step is sent to W&B twice, although a killed stage repeats its last steps, and none is left out: this process
outlives the stage until it has sent the whole journal, and every later one begins with the events that W&B lacks, of
its own stage and of its inputs. `wandb.json` in the run directory records them. If this process is killed too, an
offline run is a torn file that nobody can upload; its folder is removed and all its events are sent again. Online,
events that the client had not uploaded by then are missing from W&B (never from the journal).

W&B is begun at the first event, or when the stage has ended well: a stage that fails before leaves nothing there. The
results of prepare and build, which read no other stage, mean nothing alone: they come with the next one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TextIO

from pipeline.config.operations import TrackingConfig
from pipeline.store.journal import JournalTail
from pipeline.store.lock import DirectoryBusy, exclusive
from pipeline.tracking.events import EVENTS
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import CLOSE_SECONDS, CONSOLE
from pipeline.tracking.wandb_mode import Mode
from pipeline.tracking.wandb_run import WandbRun
from pipeline.tracking.wandb_state import read_state

_LOOK_SECONDS = 1.0


class StageEnd:
    """The end of the stage at the other end of the pipe: its last message, or its death."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe = pipe
        self.words: bytes | None = None
        """The stage's last message, empty if it died; None while it runs."""
        self.exit_code = 1
        self._seconds = CLOSE_SECONDS
        self._came_at = 0.0
        threading.Thread(target=self._end_too, daemon=True).start()

    def wait(self) -> bool:
        """Wait a moment for the end. Returns whether it has come."""
        if self.words is None and select.select([self.pipe], [], [], _LOOK_SECONDS)[0]:
            self.words, self._came_at = self.pipe.readline(), time.monotonic()
            if self.words.endswith(b"\n"):
                said = json.loads(self.words)
                self.exit_code, self._seconds = said["exit_code"], said["seconds"]
        return self.words is not None

    @property
    def is_near(self) -> bool:
        """Return whether the stage will soon stop waiting for this process."""
        return self.words is not None and time.monotonic() > self._came_at + self._seconds / 2

    def _end_too(self) -> None:
        """End this process some time after the stage's end, even if the client hangs."""
        hang_up = select.poll()
        hang_up.register(self.pipe, 0)
        hang_up.poll()
        time.sleep(CLOSE_SECONDS)
        time.sleep(max(0.0, self._seconds - CLOSE_SECONDS))
        os._exit(1)


def main() -> None:
    """Mirror the stage at the other end of standard input until its last message or its death."""
    mode: Mode = "online" if sys.argv[1] == "online" else "offline"
    arguments = sys.argv[2:]
    settings, tracked = TrackingConfig.model_validate_json(arguments[0]), Tracked.from_json(arguments[1])
    del sys.argv[1:]  # the client would record them
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    pipe, warnings = _take_pipes()
    end = StageEnd(pipe)
    try:
        if _wait_for_news(tracked, end) and not _mirror(settings, tracked, mode, end):
            _warn(warnings, "another stage of the run is at Weights & Biases; this one's copy comes with the next")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        if mode == "online" and type(error).__module__.startswith("wandb."):
            text = "this stage is logged offline, for `wandb sync` to upload later"
            _warn(warnings, f"Weights & Biases cannot be reached ({reason}); {text}")
            os._exit(_start_again_offline(arguments, end, warnings))
        text = "the run's own event files have everything"
        _warn(warnings, f"Weights & Biases gets no copy of this stage ({type(error).__name__}: {reason}); {text}")
        os._exit(1)
    os._exit(0)  # at a normal exit the client would wait for its service, and that for a server that does not answer


def _wait_for_news(tracked: Tracked, end: StageEnd) -> bool:
    """Wait until the stage has events that W&B lacks, or ends. Returns whether there is something to send."""
    tail, state = JournalTail(tracked.directory / EVENTS), read_state(tracked.run)
    while True:
        has_ended = end.wait()
        if any(state.lacks(tracked.directory, event) for event in tail.read()):
            return True
        if has_ended:
            return end.exit_code == 0 and bool(tracked.inputs)


def _mirror(settings: TrackingConfig, tracked: Tracked, mode: Mode, end: StageEnd) -> bool:
    """Copy the stage, once no process of an earlier attempt or of another stage works on the run.

    Returns False if it was too late, since the stage has ended and cannot wait longer.
    """
    folder = tracked.run / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    while not end.is_near:
        with contextlib.suppress(DirectoryBusy), exclusive(folder):
            run = WandbRun(settings, tracked, mode)
            tail = JournalTail(tracked.directory / EVENTS)
            with _open_console(tracked) as console:
                has_ended = False
                while not has_ended:
                    has_ended = end.wait()
                    run.send(tracked.directory, tail.read())
                    # The client takes what this process prints for the run's console.
                    print(console.read(), end="")
            run.send_results(tracked.part, tracked.directory)
            run.send_files(tracked.part, tracked.directory)
            run.finish(end.exit_code)
            return True
        end.wait()
        time.sleep(_LOOK_SECONDS)
    return False


def _open_console(tracked: Tracked) -> TextIO:
    """Open the lines that the stage shows; there are none if they could not be written."""
    try:
        return (tracked.directory / CONSOLE).open(errors="replace")
    except OSError:
        return io.StringIO()


def _start_again_offline(arguments: list[str], end: StageEnd, warnings: IO[str]) -> int:
    """Start anew in another process, since the client's service keeps trying to reach the server for this run."""
    os.environ.pop("WANDB_SERVICE", None)
    command = [sys.executable, "-m", "pipeline.tracking.wandb_process", "offline", *arguments]
    if end.words is None:
        return subprocess.call(command, stdin=end.pipe, stdout=warnings)
    return subprocess.run(command, input=end.words, stdout=warnings).returncode


def _take_pipes() -> tuple[IO[bytes], IO[str]]:
    """Reserve standard input and output for the stage: the client and its service get the null device."""
    orders, warnings = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return orders, warnings


def _warn(pipe: IO[str], text: str) -> None:
    """Ask the stage to show a line; it may have ended."""
    with contextlib.suppress(OSError):
        pipe.write(json.dumps(text) + "\n")
        pipe.flush()


if __name__ == "__main__":
    main()
