"""One W&B run for a run directory, opened anew by each attempt of each of its stages."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.operations import TrackingConfig
from pipeline.store.seal import read_seal
from pipeline.tracking.events import Event, read_events
from pipeline.tracking.tracked import Tracked
from pipeline.tracking.wandb_mirror import SCORES, TABLES
from pipeline.tracking.wandb_mode import Mode
from pipeline.tracking.wandb_state import RESULTS, read_state, write_state

_INIT_SECONDS = 12.0
"""Longest wait for a server before a stage is logged offline; the client's own limit is 90 s."""
_LONGEST_NAME = 128
"""Limit of an artifact's name; W&B refuses longer ones."""
_PREFIXES = {"train": "train", "validation": "val"}


def metrics_of(event: Event, trained_steps: int) -> dict[str, Any]:
    """Return the event as W&B metrics, `train/loss` or `eval/10crop/top1_error_percent`, always with `global_step`."""
    fields = {name: value for name, value in event.items() if isinstance(value, int | float) and name != "time"}
    step = fields.pop("global_step", trained_steps)
    prefix = f"eval/{event['plan']}" if event["kind"] == "evaluation" else _PREFIXES[event["kind"]]
    return {"global_step": step, **{f"{prefix}/{name}": value for name, value in fields.items()}}


def results_of(part: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return results of a stage as items of the summary: `build/parameters`, `prepare/val/images`,
    `eval/10crop/images`."""
    prefix = "eval" if part == "evaluate" else part.replace("-", "/")
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        found |= results_of(f"{prefix}/{name}", value) if isinstance(value, Mapping) else {f"{prefix}/{name}": value}
    return found


class WandbRun:
    """The run in W&B, open for one attempt of a stage. Raises wandb.Error if the server cannot be reached."""

    def __init__(self, settings: TrackingConfig, tracked: Tracked, mode: Mode) -> None:
        self._settings, self._tracked = settings, tracked
        self._state = read_state(tracked.run)
        self._torn: Path | None = None
        self._discard_torn_fragment()
        write_state(tracked.run, self._state)
        self._run = self._init(mode)
        self._run.define_metric("global_step", hidden=True)
        self._run.define_metric("*", step_metric="global_step")
        # `wandb sync` gives the run the summary of the last file alone.
        self._run.summary.update(self._state.summary)
        self._state.url = self._run.url or self._state.url
        if mode == "offline":
            self._state.open_fragment = str(Path(self._run.dir).parent.relative_to(tracked.run))
            self._state.sent_before = copy.deepcopy(self._state.sent)
        write_state(tracked.run, self._state)
        for part, directory in tracked.inputs.items():
            self.send(directory, read_events(directory))
            self.send_results(part, directory)

    def send(self, directory: Path, events: Iterable[Event]) -> None:
        """Log the events that W&B lacks; they count as sent just before, since a missing one is better than a
        duplicate."""
        steps = self._tracked.trained_steps
        rows = [metrics_of(event, steps) for event in events if self._state.take(directory, event)]
        if rows:
            for row in rows:
                self._state.summary |= row
            write_state(self._tracked.run, self._state)
        for row in rows:
            self._run.log(row)

    def send_results(self, part: str, directory: Path, with_files: bool = False) -> None:
        """Send the results in a finished stage's seal, once; with its tables and scores if `with_files` is set.

        Score files become an artifact; offline it refers to the files themselves until it is uploaded.
        """
        import wandb

        seal = read_seal(directory, "stage")
        if seal is None or not self._state.take(directory, RESULTS):
            return
        results = results_of(part, seal.about["metrics"])
        self._state.summary |= results
        write_state(self._tracked.run, self._state)
        self._run.summary.update(results)
        if with_files and TABLES in seal.files:
            for name, table in json.loads((directory / TABLES).read_text()).items():
                self._run.log({name: wandb.Table(columns=table["columns"], data=table["rows"])})
        scores = [name for name in seal.files if Path(name).match(SCORES)]
        if with_files and scores and self._settings.upload_scores:
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self._tracked.name}-{part}-scores")
            artifact = wandb.Artifact(name[-_LONGEST_NAME:], type="scores")
            for name in scores:
                # A finished stage's files never change, so the client need not copy them first.
                artifact.add_file(str(directory / name), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """Wait until everything is uploaded, or (offline) on disk."""
        self._run.finish(exit_code=exit_code)
        if self._torn is not None and self._torn != Path(self._run.dir).parent:
            # The client's service outlives a kill for a moment, and may have written there once more.
            shutil.rmtree(self._torn, ignore_errors=True)
        self._state.open_fragment = None
        write_state(self._tracked.run, self._state)

    def _init(self, mode: Mode) -> Any:
        import wandb

        tracked = self._tracked
        if self._state.id != os.environ.get("WANDB_RUN_ID"):
            # The run directory had an id before a sweep's agent came: this is not the agent's run.
            os.environ.pop("WANDB_SWEEP_ID", None)
        settings = wandb.Settings(
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", _INIT_SECONDS)),
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=not tracked.is_distributed,
            x_stats_pid=tracked.pid,
        )
        return wandb.init(
            mode=mode,
            dir=str(tracked.run),
            project=self._settings.project,
            entity=self._settings.entity,
            name=tracked.name,
            group=tracked.group,
            id=self._state.id,
            resume="allow",
            config=dict(tracked.config),
            settings=settings,
        )

    def _discard_torn_fragment(self) -> None:
        """Remove the offline file of a killed attempt, unless it was uploaded, and resume before it."""
        if self._state.open_fragment is None:
            return
        folder = self._tracked.run / self._state.open_fragment
        if not list(folder.glob("*.synced")):
            shutil.rmtree(folder, ignore_errors=True)
            self._torn = folder
            self._state.sent = self._state.sent_before
        self._state.open_fragment = None
