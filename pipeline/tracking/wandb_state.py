"""What Weights & Biases has of a stage, kept in the stage's directory over all its attempts."""

from __future__ import annotations

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

from pipeline.store.file import write_json
from pipeline.tracking.events import Event

STATE = "wandb.json"


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
    """The state that earlier attempts left, or a new one with an id of its own."""
    try:
        fields = json.loads((directory / STATE).read_text())
        return State(**{**fields, **{name: _cursor(fields[name]) for name in ("sent", "sent_before")}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return State(id=secrets.token_hex(6))


def read_link(directory: Path) -> str | None:
    """The address of the stage's W&B run; None where it has none (yet), as in offline runs."""
    return read_state(directory).url if (directory / STATE).exists() else None


def write_state(directory: Path, state: State) -> None:
    """Replace the file in one step."""
    write_json(directory / STATE, dataclasses.asdict(state))


def _cursor(fields: dict[str, Any]) -> Cursor:
    return Cursor(**{**fields, "evaluation": tuple(fields["evaluation"])})
