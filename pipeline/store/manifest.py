"""A stage's manifest: written last, it says that the stage is done and what it left behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of, write_json

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Output:
    """A file that a stage promises, relative to its directory."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished stage was made from and what it made."""

    stage: str
    key: str
    inputs: Mapping[str, str]
    """Stage name to key, for every stage this one read."""
    outputs: Mapping[str, Output]
    config: Mapping[str, Any]
    """The part of the config that the key covers."""
    provenance: Mapping[str, Any]
    metrics: Mapping[str, Any]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Declare the stage in `directory` done. Nothing may be written there afterwards."""
    write_json(directory / MANIFEST, dataclasses.asdict(manifest))


def describe_outputs(directory: Path, names: list[str]) -> dict[str, Output]:
    """Size and checksum of each named file below `directory`."""
    return {name: Output((directory / name).stat().st_size, sha256_of(directory / name)) for name in sorted(names)}


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a stage directory, or None where the stage is not done. UserError where it cannot be read."""
    path = directory / MANIFEST
    try:
        fields = json.loads(path.read_text())
        fields["outputs"] = {name: Output(**output) for name, output in fields["outputs"].items()}
        return Manifest(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not a readable manifest ({error}); delete this file to run the stage again from what it saved"
        ) from error


def verify_outputs(directory: Path, manifest: Manifest) -> None:
    """UserError that names every promised file that is missing or whose content has changed."""
    problems = []
    for name, output in manifest.outputs.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != output.size:
            problems.append(f"{path}: {path.stat().st_size:,} bytes, {output.size:,} when it was written")
        elif sha256_of(path) != output.sha256:
            problems.append(f"{path}: its content has changed since it was written (SHA-256 differs)")
    if problems:
        problems.append(f"delete {directory} to run stage '{manifest.stage}' again")
        raise UserError("\n".join(problems))
