"""One W&B run for a run directory, opened anew by each attempt of each of its stages."""

from __future__ import annotations

import base64
import copy
import io
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
from pipeline.tracking.wandb_state import FILES, RESULTS, WEIGHTS, read_state, write_state

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


def media_of(directory: Path, files: Iterable[str]) -> dict[str, Any]:
    """Return those of a stage's files that W&B can show: pages, pictures and tables, by name without suffix.

    A cell of a table that is a data: URI becomes a picture.
    """
    import wandb

    media: dict[str, Any] = {}
    for name in files:
        path = directory / name
        if path.suffix == ".html":
            media[path.stem] = wandb.Html(str(path), inject=False)
        elif path.suffix == ".png":
            media[name.removesuffix(".png")] = wandb.Image(str(path))
    if TABLES in files:
        for name, table in json.loads((directory / TABLES).read_text()).items():
            rows = [[_picture(cell) for cell in row] for row in table["rows"]]
            media[name] = wandb.Table(columns=table["columns"], data=rows)
    return media


def _picture(cell: Any) -> Any:
    if not (isinstance(cell, str) and cell.startswith("data:image/")):
        return cell
    import wandb
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(base64.b64decode(cell.partition(",")[2]))))


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
        if mode == "online":
            self._state.url = self._run.url or self._state.url
        else:
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

    def send_results(self, part: str, directory: Path) -> None:
        """Send the results in a finished stage's seal, once."""
        seal = read_seal(directory, "stage")
        if seal is None or not self._state.take(directory, RESULTS):
            return
        results = results_of(part, seal.about["metrics"])
        self._state.summary |= results
        write_state(self._tracked.run, self._state)
        self._run.summary.update(results)

    def send_files(self, part: str, directory: Path) -> None:
        """Send a finished stage's page, plots and tables, its scores and the weights that it was made with, once.

        Scores and weights become artifacts; offline these refer to the files themselves until they are uploaded.
        """
        seal = read_seal(directory, "stage")
        if seal is None or not self._state.take(directory, FILES):
            return
        write_state(self._tracked.run, self._state)
        for name, value in media_of(directory, seal.files).items():
            self._run.log({"global_step": self._tracked.trained_steps, name: value})
        scores = {name: directory / name for name in seal.files if Path(name).match(SCORES)}
        if scores and self._settings.upload_scores:
            self._send_artifact(f"{part}-scores", "scores", scores, "latest")
        for alias, file in self._tracked.weights.items():
            place = Path(str(file.relative_to(self._tracked.run)).replace("/", "-"))
            if self._state.take(place, {**WEIGHTS, "plan": alias}):
                write_state(self._tracked.run, self._state)
                self._send_artifact("weights", "model", {"weights.safetensors": file}, alias)

    def _send_artifact(self, suffix: str, kind: str, files: Mapping[str, Path], alias: str) -> None:
        import wandb

        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self._tracked.name}-{suffix}")
        artifact = wandb.Artifact(name[-_LONGEST_NAME:], type=kind)
        for own_name, file in files.items():
            # A finished stage's files never change, so the client need not copy them first.
            artifact.add_file(str(file), own_name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=[alias])

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
            console="wrap",
            # Each attempt adds a file; a single one would be overwritten.
            console_multipart=True,
            # Of our source, not of the folder that this runs in; without its address, which may hold a password.
            git_commit=tracked.commit,
            git_remote_url="",
            disable_git=tracked.commit is None,
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
            tags=tracked.tags if self._state.is_new else None,
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
