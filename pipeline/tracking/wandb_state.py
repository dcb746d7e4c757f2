"""The record of what Weights & Biases has of a run, kept in the run directory over all attempts of all its stages."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Any

from pipeline.store.file import write_json
from pipeline.tracking.events import Event

STATE = "wandb.json"
RESULTS: Event = {"kind": "results"}
"""Represents the results in a stage's seal."""
FILES: Event = {"kind": "files"}
"""Represents its files."""
WEIGHTS: Event = {"kind": "weights"}
"""Represents a weight file; its `plan` is the alias."""
_KINDS = ("train", "validation", "evaluation", "results", "files", "weights")

Sent = dict[str, dict[str, int]]


@dataclasses.dataclass
class State:
    """The content of `wandb.json`."""

    id: str
    url: str | None = None
    sent: Sent = dataclasses.field(default_factory=dict)
    """The last step sent (1 if it has none), by stage directory, whose name has its key, and kind of event."""
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The newest value of every item sent."""
    open_fragment: str | None = None
    """Folder, below the run's, of an unfinished offline file."""
    sent_before: Sent = dataclasses.field(default_factory=dict)
    """The value of `sent` when the offline file was begun."""

    def lacks(self, directory: Path, event: Event) -> bool:
        """Return whether W&B gets events of this kind, and has neither this one nor one of a later step."""
        sent = self.sent.get(directory.name, {}).get(_name(event), 0)
        return event["kind"] in _KINDS and bool(_step(event) > sent)

    @property
    def is_new(self) -> bool:
        """Whether W&B has nothing of the run yet."""
        return not self.sent

    def take(self, directory: Path, event: Event) -> bool:
        """Count the event as sent. Returns whether W&B lacked it."""
        is_new = self.lacks(directory, event)
        if is_new:
            self.sent.setdefault(directory.name, {})[_name(event)] = _step(event)
        return is_new


def read_state(run: Path) -> State:
    """Return the state left by earlier attempts, or a new one; its id is the one set by a sweep's agent, or random."""
    try:
        return State(**json.loads((run / STATE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return State(id=os.environ.get("WANDB_RUN_ID") or secrets.token_hex(6))


def read_link(run: Path) -> str | None:
    """Return the address of the run at W&B, or None if it has none (yet), as while everything is offline."""
    return read_state(run).url if (run / STATE).exists() else None


def offline_files(run: Path) -> list[Path]:
    """Return the folders of finished offline files that nobody has uploaded yet."""
    return [folder for folder in sorted(run.glob("wandb/offline-run-*")) if not list(folder.glob("*.synced"))]


def write_state(run: Path, state: State) -> None:
    """Replace the file in one step."""
    write_json(run / STATE, dataclasses.asdict(state))


def _name(event: Event) -> str:
    return f"{event['kind']} {event['plan']}" if "plan" in event else str(event["kind"])


def _step(event: Event) -> int:
    return int(event.get("global_step", 1))
