"""How the last attempt of a stage ended, for whoever started it.

A process's exit code does not survive torchrun (always 1) nor a group of SLURM tasks, so the first rank that ends
badly, or the main rank when all stop on request, leaves a note.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from pipeline.store.file import write_json

OUTCOME = "outcome.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit code of the contract, and one message for a person."""

    exit_code: int
    message: str
    rank: int


def write_outcome(directory: Path, outcome: Outcome) -> bool:
    """Leave the note unless another rank has: the first one stands, since what follows is its consequence.

    Returns whether this is the one that stands.
    """
    path = directory / OUTCOME
    # Processes of two nodes may have the same number.
    draft = directory / f".tmp-{outcome.rank}-{os.getpid()}-{OUTCOME}"
    try:
        write_json(draft, dataclasses.asdict(outcome))
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def read_outcome(directory: Path) -> Outcome | None:
    """The note, or None where the stage never ran, is running, was killed, or is done."""
    try:
        return Outcome(**json.loads((directory / OUTCOME).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def clear_outcome(directory: Path) -> None:
    """Forget an earlier attempt's note."""
    (directory / OUTCOME).unlink(missing_ok=True)
