"""Takes the checkpoints of a phase: the main rank writes them, and all ranks agree on the newest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.engines.engine import Engine, OptimizerState
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import TrainingDiverged
from pipeline.models.batch_norm import frozen_digest
from pipeline.tracking.events import EventLog
from pipeline.training.background_writer import BackgroundWriter, NotFinite
from pipeline.training.checkpoint import CheckpointStore, Saved
from pipeline.training.state import TrainingState


class Saver:
    """A `BackgroundWriter` on the main rank, and every rank's knowledge of its checkpoints.

    Only the main rank learns of a checkpoint that could not be written: it raises the OSError, or TrainingDiverged if
    the weights are not finite, and the other ranks end with it.
    """

    def __init__(self, store: CheckpointStore, engine: Engine, collective: Collective, events: EventLog) -> None:
        self.newest: Path | None = None
        """The newest checkpoint on disk, as of the ranks' last exchange."""
        self.step: int | None = None
        """The step of the newest checkpoint, even if it is still being written."""
        self._engine = engine
        self._collective = collective
        self._events = events
        self._writer = BackgroundWriter(store)
        self._frozen = frozen_digest(engine.model)

    def prepare(self) -> None:
        """Allocate memory for the first copy in the background."""
        if self._collective.ranks.is_main:
            network = self._engine.model
            learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
            self._writer.prepare(network.state_dict(), learning)

    def save(self, step: int, best_step: int | None, describe: Callable[[OptimizerState], TrainingState]) -> None:
        """Take a checkpoint as soon as the previous one is on disk; it is written while training continues."""
        # The guarantee of freeze_bn: not a bit of a frozen batch norm changes.
        assert frozen_digest(self._engine.model) == self._frozen, "a frozen batch norm has changed"
        optimizer = self._engine.state_dict()
        if self._collective.ranks.is_main:
            self._show(self._writer.wait)
            self._writer.start(describe(optimizer), best_step)
        self.step = step

    def poll(self) -> None:
        """Show a checkpoint that has been finished meanwhile."""
        self._show(self._writer.poll)

    def finish(self) -> None:
        """Wait until every checkpoint is on disk; every rank then knows the newest one."""
        self._show(self._writer.wait)
        newest = self._collective.broadcast(None if self.newest is None else str(self.newest))
        self.newest = None if newest is None else Path(newest)

    def close(self) -> None:
        """Wait for the checkpoint that is being written; errors are not raised."""
        self._writer.close()

    def diverged(self, what: str) -> TrainingDiverged:
        """Return the error that ends a training whose numbers are not finite."""
        where = f"the last good checkpoint is {self.newest}" if self.newest else "no checkpoint was written yet"
        return TrainingDiverged(f"{what}, so training stops and nothing more is saved; {where}")

    def _show(self, ask: Callable[[], Saved | None]) -> None:
        try:
            saved = ask()
        except NotFinite as error:
            raise self.diverged(str(error)) from None
        if saved is not None:
            self.newest = saved.path
            self._events.show(
                "checkpoint",
                global_step=saved.global_step,
                path=str(saved.path),
                seconds=saved.seconds,
                bytes=saved.size,
            )
