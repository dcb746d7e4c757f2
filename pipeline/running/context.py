"""What a stage is given and what it gives back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Config
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.tracking.events import EventLog

if TYPE_CHECKING:
    from pipeline.ground.distributed import Collective


@dataclasses.dataclass(frozen=True)
class StageContext:
    """Everything a stage may use. It reads its inputs' directories and writes to its own, and to nothing else.

    One exception: evaluate reads the run's other evaluate directories, whose scores need no second forward pass.
    """

    config: Config
    run: Path
    directory: Path
    """The stage's own directory; it exists, is locked, and holds whatever earlier attempts of this stage left."""
    inputs: Mapping[str, Path]
    """Directories of the finished stages that this one reads, checked against their manifests."""
    ranks: Ranks
    events: EventLog
    """The main rank's record; on other ranks it goes nowhere."""
    stop: StopFlag
    """Looked at between steps; when it is set: save, then raise StopRequested."""

    @functools.cached_property
    def collective(self) -> Collective:
        """This process among the others. Importing torch waits until a stage asks for it."""
        from pipeline.ground.distributed import Collective

        return Collective(self.ranks, self.config.resources.collective_timeout_seconds)


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What a finished stage leaves behind; the same on every rank, used on the main one."""

    outputs: list[str]
    """Files relative to its directory that later stages and people may rely on."""
    metrics: dict[str, Any]
    """Plain values that `status` and the report show; percentages say so in their names."""
