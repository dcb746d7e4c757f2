"""The input and the result of a stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Config
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag
from pipeline.running.attempts import known_places, note_images
from pipeline.running.stage import Part
from pipeline.store.seal import Seal
from pipeline.tracking.events import EventLog

if TYPE_CHECKING:
    from pipeline.data.index import ImageIndex
    from pipeline.ground.distributed import Collective


@dataclasses.dataclass(frozen=True)
class StageContext:
    """Everything a stage may use. It reads its inputs' directories and writes only to its own.

    Two exceptions: evaluate reads the store's other evaluate directories, whose scores need no second forward pass;
    prepare compares with the other finished splits.
    """

    config: Config
    """A view: reading a result field of an undeclared section raises UndeclaredKey."""
    run: Path
    part: Part
    inputs: Mapping[str, Path]
    """Directories of the sealed input parts by name; checked against their seals."""
    seals: Mapping[str, Seal]
    """The seals of the inputs."""
    siblings: Mapping[str, Part]
    """The run's parts of the same stage, this one included, by name."""
    ranks: Ranks
    events: EventLog
    """The main rank's event log; on other ranks it discards everything."""
    stop: StopFlag
    """Checked between steps; when it is set: save, then raise StopRequested."""

    @property
    def directory(self) -> Path:
        """The part's own directory; it exists, is locked, and holds the work of earlier attempts."""
        return self.part.directory

    @functools.cached_property
    def collective(self) -> Collective:
        """The process group. Imports torch at the first use."""
        from pipeline.ground.distributed import Collective

        return Collective(self.ranks, self.config.resources.collective_timeout_seconds, self.stop)

    def images(self, split: str) -> ImageIndex:
        """Return the index of an input split, with the place of its images.

        The first rank of each node checks the images against the index. Raises UserError if they differ.
        """
        from pipeline.data.index import read_index
        from pipeline.data.source import locate, place_name
        from pipeline.data.verification import check_images

        directory = self.inputs[f"prepare-{split}"]
        index = locate(read_index(directory), directory, self.config.data)
        place = place_name(index)
        if self.ranks.local_rank == 0:
            check_images(index, (split, place) in known_places(self.run), self.note)
        if self.ranks.world_size > 1:
            self.collective.barrier()  # before the place is noted, or another node would take it for checked
        if self.ranks.is_main:
            note_images(self.directory, split, place)
        return index

    def note(self, text: str, level: str = "info") -> None:
        """Show one line to the user."""
        self.events.show("note", level=level, text=text)


@dataclasses.dataclass(frozen=True)
class StageResult:
    """The result of a finished stage; the same on every rank, used on the main one."""

    outputs: list[str]
    """Files relative to its directory on which later stages and people may rely."""
    metrics: dict[str, Any]
    """Plain values that `status` and the report show; percentages have it in their names."""
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    """Digest of the index of each split whose images were used."""
