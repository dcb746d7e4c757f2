"""Stages that are done without having run, and what a stage that runs in the test process is given."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.config.view import view
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.context import StageContext
from pipeline.running.provenance import collect_provenance
from pipeline.running.stage import Part, parts_of, place_stages
from pipeline.store.seal import Seal, read_seal, seal_directory
from pipeline.tracking.events import EventLog
from stages import STAGES

_provenance = functools.cache(collect_provenance)


def seal_part(
    part: Part,
    files: Iterable[str] = (),
    metrics: Mapping[str, Any] | None = None,
    images: Mapping[str, str] | None = None,
) -> Seal:
    """Seal the part's directory as the runner does when its stage has returned."""
    part.directory.mkdir(parents=True, exist_ok=True)
    about = {
        "stage": part.name.partition("-")[0],
        "version": part.version,
        "key": part.key,
        "inputs": dict(part.inputs),
        "identity": part.identity,
        "images": dict(images or {}),
        "metrics": dict(metrics or {}),
        "provenance": _provenance(),
    }
    return seal_directory(part.directory, "stage", about, files)


@contextlib.contextmanager
def stage_context(name: str, config: Config, run: Path, directory: Path) -> Iterator[StageContext]:
    """What the runner hands to a stage of one part, which works in `directory`. Inputs are not verified."""
    placed = place_stages(config, run, STAGES)
    parts = parts_of(placed)
    part = dataclasses.replace(parts[name], directory=directory)
    directory.mkdir(exist_ok=True)
    inputs = {each: parts[each].directory for each in part.inputs}
    with contextlib.closing(EventLog(directory)) as events:
        yield StageContext(
            config=view(config, placed[name].stage.sections),
            run=run,
            part=part,
            inputs=inputs,
            seals={each: seal for each, path in inputs.items() if (seal := read_seal(path, "stage"))},
            siblings={part.name: part},
            ranks=Ranks(),
            events=events,
            stop=StopFlag(),
        )
