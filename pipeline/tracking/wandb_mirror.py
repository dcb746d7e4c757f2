"""Weights & Biases as a copy of the record, kept by a process of its own.

The client talks to servers that can be slow, hang or be gone, starts threads and services, and hooks into the exit of
the process it attempts in. None of that may touch a training process, which therefore only writes lines into a pipe; the
other end (`wandb_process`) can be waited for as long as is reasonable, and then be killed.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import netrc
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pipeline.config.schema import Config
from pipeline.running.provenance import git_state
from pipeline.running.stage import PlacedStage
from pipeline.store.manifest import Manifest, read_manifest
from pipeline.tracking.events import Event, read_events

MIRRORED = ("train", "validation", "evaluation")
TABLES = "tables.json"
"""Where a stage leaves tables for W&B: {name: {"columns": [...], "rows": [[...], ...]}}."""
INIT_SECONDS = 12.0
"""How long a server may take to answer before a stage is logged offline; the client's own limit is 90 s."""
CLOSE_SECONDS = 30.0
"""How long the end of a stage waits for W&B, score files apart."""
_UPLOAD_BYTES_PER_SECOND = 5e6
"""The slowest upload of score files that the end of a stage waits for."""
_SOURCE = Path(__file__).parents[2]

Warn = Callable[[str], None]


def choose_mode(setting: str, environment: Mapping[str, str] = os.environ) -> str:
    """online, offline or disabled: `tracking.wandb`, unless the environment's WANDB_MODE says otherwise; auto is online
    where there is a key for the server and offline where there is none."""
    if setting == "disabled":
        return setting
    forced = environment.get("WANDB_MODE", "")
    if forced in ("online", "offline", "disabled"):
        return forced
    if setting != "auto":
        return setting
    return "online" if _has_key(environment) else "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    """Whether the client would find credentials: in the environment, its settings file or the netrc file."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(environment.get("HOME", "/"))
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(environment.get("WANDB_CONFIG_DIR", home / ".config" / "wandb"))
    with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
        settings.read(folder / "settings")
    default = settings["default"] if settings.has_section("default") else {}
    if default.get("api_key"):
        return True
    server = environment.get("WANDB_BASE_URL") or default.get("base_url") or "https://api.wandb.ai"
    candidates = [environment["NETRC"]] if "NETRC" in environment else [home / ".netrc", home / "_netrc"]
    for candidate in candidates:
        with contextlib.suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            found = netrc.netrc(str(candidate)).authenticators(urlsplit(server).netloc)
            return found is not None and bool(found[2])
    return False


class WandbMirror:
    """Hands a stage's events to W&B. Never raises and never waits, except for a bounded time when it is closed."""

    def __init__(self, config: Config, placed: PlacedStage, run: Path, mode: str, warn: Warn) -> None:
        """`warn` shows one line to the user; it may be called from another thread."""
        self._placed = placed
        self._takes_scores = config.tracking.upload_scores
        self._warn = warn
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        try:
            # What earlier attempts wrote and W&B may have missed; the other end knows what it has.
            for event in read_events(placed.directory):
                self(event)
            self._process = _start_process(mode, _description(config, placed, run))
        except (OSError, ValueError) as error:
            warn(f"Weights & Biases gets no copy of this stage: {error}")
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        threading.Thread(target=self._feed, args=(self._process.stdin,), daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def __call__(self, event: Event) -> None:
        """Queue the event, if it is one that W&B gets."""
        if event["kind"] in MIRRORED:
            self._send(event=event)

    def close(self, exit_code: int) -> None:
        """Hand over the stage's results and how it ended, and wait a bounded time until W&B has it."""
        if self._process is None:
            return
        manifest = read_manifest(self._placed.directory)
        tables = self._placed.directory / TABLES
        scores = [] if manifest is None or not self._takes_scores else _score_files(self._placed.directory, manifest)
        seconds = CLOSE_SECONDS + sum(path.stat().st_size for path in scores) / _UPLOAD_BYTES_PER_SECOND
        self._send(
            finish={
                "exit_code": exit_code,
                "summary": {} if manifest is None else dict(manifest.metrics),
                "tables": json.loads(tables.read_text()) if manifest is not None and tables.exists() else {},
                "scores": [str(path) for path in scores],
                "seconds": seconds,
            }
        )
        self._lines.put(None)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._warn(
                f"Weights & Biases did not finish within {seconds:.0f} s and was left behind; the run's own "
                "event files have everything, and `wandb sync` can upload what is in the run's wandb folder"
            )
        self._listener.join(1.0)

    def _send(self, **message: Any) -> None:
        self._lines.put(json.dumps(message) + "\n")

    def _feed(self, pipe: IO[str]) -> None:
        """Write the lines; a process that hangs makes this thread wait, and nobody else."""
        with contextlib.suppress(BrokenPipeError), pipe:
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()

    def _listen(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._warn(json.loads(line)["warning"])


def _score_files(directory: Path, manifest: Manifest) -> list[Path]:
    """The score files that a finished stage promises, and their descriptions."""
    return [directory.absolute() / name for name in sorted(manifest.outputs) if Path(name).match("scores-*")]


def _start_process(mode: str, description: dict[str, Any]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_SOURCE), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.tracking.wandb_process", mode, json.dumps(description)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the stage, which then says goodbye to W&B
    )


def _description(config: Config, placed: PlacedStage, run: Path) -> dict[str, Any]:
    """What the other end has to know, as the fields of its `Description`."""
    return {
        "directory": str(placed.directory.absolute()),
        "run": str(run.absolute()),
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "group": config.name,
        "job_type": placed.name,
        "config": {**placed.config_part, "stage_key": placed.key, "git": git_state(_SOURCE)},
        "trained_steps": _trained_steps(placed),
        "init_seconds": INIT_SECONDS,
        "watch_pid": os.getpid() if placed.spec.distributed else None,
    }


def _trained_steps(placed: PlacedStage) -> int:
    """The step of the weights that the stage reads: where on the axis of the run its results belong."""
    for name in ("freeze_bn", "train"):
        if name in placed.input_keys:
            manifest = read_manifest(placed.directory.with_name(f"{name}-{placed.input_keys[name]}"))
            if manifest is not None:
                return int(manifest.metrics["global_step"])
    return 0
