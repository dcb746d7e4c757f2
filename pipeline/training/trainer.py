"""The training loop: the same for the main phase and for the epochs with frozen batch norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.data.batch import Batch
from pipeline.data.index import Dataset
from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.data.order import StreamOrder
from pipeline.engines.engine import Engine
from pipeline.evaluation.validation import Validation, validate
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested, TrainingDiverged
from pipeline.ground.seeds import derive_seed
from pipeline.ground.stop import StopFlag
from pipeline.tracking.events import EventLog
from pipeline.training.background_writer import BackgroundWriter, NotFinite
from pipeline.training.batching import BatchSplit
from pipeline.training.bn_freeze import frozen_digest
from pipeline.training.cadence import actions_after
from pipeline.training.checkpoint import Checkpoint, CheckpointStore, Saved
from pipeline.training.nan_guard import NanGuard
from pipeline.training.position import Progress
from pipeline.training.schedule import LearningRate
from pipeline.training.throughput import Throughput
from pipeline.training.world import describe_processes


@dataclasses.dataclass(frozen=True)
class Phase:
    """The optimizer steps that a stage takes, counted from 0 over the whole run: first_step to last_step - 1."""

    first_step: int
    last_step: int


class Trainer:
    """Trains one phase, from its start or from wherever an earlier attempt of the stage stopped."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        order: StreamOrder,
        phase: Phase,
        split: BatchSplit,
        engine: Engine,
        collective: Collective,
        store: CheckpointStore,
        events: EventLog,
        stop: StopFlag,
    ) -> None:
        self._config = config
        self._dataset = dataset
        self._order = order
        self._phase = phase
        self._split = split
        self._engine = engine
        self._collective = collective
        self._writer = BackgroundWriter(store)
        self._events = events
        self._stop = stop
        self._learning_rate = LearningRate(config.schedule, config.optim.lr, order, config.train.epochs)
        self._preprocessor = Preprocessor(
            config.data, config.augmentation, collective.device, config.execution.channels_last
        )
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing)
        self._loader = build_train_loader(
            dataset.train,
            config,
            collective.ranks,
            collective.device,
            micro_batch=split.micro_batch,
            first_step=phase.first_step,
            last_step=phase.last_step,
        )
        self._progress = Progress(global_step=phase.first_step)
        self._nan_guard = NanGuard(collective)
        self._saved_step: int | None = None
        """The step of the newest checkpoint, be it still in the making."""
        self._newest: Path | None = None
        """The newest checkpoint on disk, as far as the ranks have talked about it."""
        self._frozen = frozen_digest(engine.model)

    def resume(self, checkpoint: Checkpoint, path: Path) -> None:
        """Go on from a checkpoint of this very phase."""
        self._engine.load_model(checkpoint.model)
        self._engine.load_state_dict(checkpoint.optimizer)
        self._loader.load_state_dict(checkpoint.state["loader"])
        self._events.rewind(checkpoint.state["events_position"])
        state = checkpoint.state
        self._progress = Progress(checkpoint.global_step, state["best"], state["validation"], state["best_saved"])
        self._saved_step, self._newest = checkpoint.global_step, path
        self._frozen = frozen_digest(self._engine.model)

    def run(self) -> Progress:
        """Train to the end of the phase; returns where training then stands, its checkpoint written.

        StopRequested after saving where a stop was asked for; TrainingDiverged where the loss or the weights are no
        longer finite.
        """
        if self._collective.ranks.is_main:
            network = self._engine.model
            learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
            self._writer.prepare(network.state_dict(), learning)
        throughput = Throughput(self._split.global_batch)
        batches = iter(self._loader)
        try:
            while self._progress.global_step < self._phase.last_step:
                loss = self._train_step(batches, throughput)
                self._progress.global_step += 1
                self._after_step(loss, throughput)
            self._save_to_the_end()
        finally:
            self._loader.close()
            self._writer.close()
        return self._progress

    def _train_step(self, batches: Iterator[Batch], throughput: Throughput) -> torch.Tensor:
        """One optimizer step on one global batch; returns this process's share of its mean loss, on the device."""
        step = self._progress.global_step
        # Dropout and pixel jitter draw from generators whose state depends on the step and rank alone.
        torch.manual_seed(derive_seed(self._config.seed, "step", step, self._collective.ranks.rank))
        total = torch.zeros((), device=self._collective.device)
        for index in range(self._split.accumulation):
            with throughput.waiting_for_data():
                batch = next(batches)
            images = self._preprocessor.training(batch)
            labels = batch.labels.to(self._collective.device, non_blocking=True)
            with self._engine.accumulating(last=index == self._split.accumulation - 1):
                loss = self._criterion(self._engine.forward(images), labels) / self._split.accumulation
                self._engine.backward(loss)
            total += loss.detach()
        self._nan_guard.look(total, step + 1)
        self._engine.step(self._learning_rate.at(step))
        throughput.step_done()
        return total

    def _after_step(self, loss: torch.Tensor, throughput: Throughput) -> None:
        """Log, validate, save and stop, each where it is due. The order matters: a checkpoint holds the validation."""
        self._tell_saved(self._writer.poll)
        done = self._progress.global_step
        is_last = done == self._phase.last_step
        due = actions_after(done, self._config, self._order, self._phase.last_step)
        if done % self._config.tracking.log_every_steps == 0 or done == self._phase.first_step + 1 or is_last:
            self._log(loss, throughput)
        self._show_progress(throughput)
        if due.validation:
            with throughput.paused():
                self._validate()
        if due.checkpoint:
            with throughput.paused():
                self._save()
        if self._collective.any(self._stop.is_set) and not is_last:
            self._save_to_the_end()
            raise StopRequested(
                f"stopped on request ({self._stop.reason or 'another process was asked'}) after step {done}, saved in "
                f"{self._newest}; the same command goes on from there"
            )

    def _log(self, loss: torch.Tensor, throughput: Throughput) -> None:
        """One line of the record. Reads the loss from the device, so it waits for the step."""
        self._check_loss()
        (total,) = self._collective.sum_floats([float(loss)])
        done = self._progress.global_step
        speed = throughput.read()
        self._events.write(
            "train",
            global_step=done,
            epoch=round(float(self._order.epoch_of(done)), 4),
            loss=total / self._collective.ranks.world_size,
            lr=self._learning_rate.at(done - 1),
            images_per_second=speed.images_per_second,
            data_wait_percent=speed.data_wait_percent,
        )

    def _show_progress(self, throughput: Throughput) -> None:
        self._events.show(
            "progress",
            done=self._progress.global_step - self._phase.first_step,
            total=self._phase.last_step - self._phase.first_step,
            unit="steps",
            rate=throughput.recent,
            text=f"epoch {float(self._order.epoch_of(self._progress.global_step)):.2f}",
        )

    def _validate(self) -> None:
        self._check_loss()
        self._engine.synchronise_buffers()
        result: Validation = validate(
            self._engine.model,
            self._dataset.val,
            self._config.train.resolved_validation(),
            self._config,
            self._collective,
            self._preprocessor,
        )
        done = self._progress.global_step
        fields = {
            "global_step": done,
            "epoch": round(float(self._order.epoch_of(done)), 4),
            **dataclasses.asdict(result),
        }
        self._progress.note_validation(fields)
        self._events.write("validation", **fields)

    def _save(self) -> None:
        """Take a checkpoint, once the one before is on disk; it is written while training goes on."""
        self._check_loss()
        self._check_frozen()
        done, best_step = self._progress.global_step, self._progress.note_checkpoint()
        optimizer = self._engine.state_dict()
        if self._collective.ranks.is_main:
            self._tell_saved(self._writer.wait)
            checkpoint = Checkpoint(
                global_step=done,
                model=self._engine.model.state_dict(),
                optimizer=optimizer,
                state={
                    "loader": self._loader.state_dict(),
                    "events_position": self._events.position(),
                    "best": self._progress.best,
                    "validation": self._progress.validation,
                    "best_saved": self._progress.best_saved,
                    "processes": describe_processes(self._config, self._collective, self._split),
                },
            )
            self._writer.start(checkpoint, best_step)
        self._saved_step = done

    def _save_to_the_end(self) -> None:
        """Save what is not saved yet and wait until it is on disk."""
        if self._saved_step != self._progress.global_step:
            self._save()
        self._finish_saving()

    def _finish_saving(self) -> None:
        """Wait until the checkpoint in the making is on disk; every rank then knows the newest one."""
        self._tell_saved(self._writer.wait)
        newest = self._collective.broadcast(None if self._newest is None else str(self._newest))
        self._newest = None if newest is None else Path(newest)

    def _tell_saved(self, ask: Callable[[], Saved | None]) -> None:
        """Take note of what the writer says. A checkpoint that came to nothing is known to the main rank alone: it ends
        with the reason, and the other ranks end since it does."""
        try:
            saved = ask()
        except NotFinite as error:
            raise self._diverged(str(error)) from None
        if saved is not None:
            self._newest = saved.path
            self._events.show(
                "checkpoint",
                global_step=saved.global_step,
                path=str(saved.path),
                seconds=saved.seconds,
                bytes=saved.size,
            )

    def _check_loss(self) -> None:
        """The loss is that of the weights before the step; what the step made of them, the writer looks at."""
        bad_step = self._nan_guard.first_bad_step()
        if bad_step is not None:
            self._finish_saving()
            raise self._diverged(f"the loss was NaN or infinite in step {bad_step}")

    def _diverged(self, what: str) -> TrainingDiverged:
        where = f"the last good checkpoint is {self._newest}" if self._newest else "no checkpoint was written yet"
        return TrainingDiverged(f"{what}, so training stops and nothing more is saved; {where}")

    def _check_frozen(self) -> None:
        """The promise of the freeze_bn stage, checked at every save: not a bit of a frozen batch norm has changed."""
        assert frozen_digest(self._engine.model) == self._frozen, "a frozen batch norm has changed"
