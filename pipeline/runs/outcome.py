"""How the last life of a stage ended, for whoever started it.

A process's exit code does not survive torchrun (always 1) nor a group of SLURM tasks, so the first rank that ends
badly, or the main rank when all stop on request, leaves a note.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipeline.runs.artifact import write_json

OUTCOME = "outcome.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit code of the contract, and one message for a person."""

    exit_code: int
    message: str
    rank: int


def write_outcome(directory: Path, outcome: Outcome) -> None:
    """Leave the note; the first one stands, since what follows is usually its consequence."""
    if not (directory / OUTCOME).exists():
        write_json(directory / OUTCOME, dataclasses.asdict(outcome))


def read_outcome(directory: Path) -> Outcome | None:
    """The note, or None where the stage never ran, is running, was killed, or is done."""
    try:
        return Outcome(**json.loads((directory / OUTCOME).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def clear_outcome(directory: Path) -> None:
    """Forget an earlier life's note."""
    (directory / OUTCOME).unlink(missing_ok=True)
