"""The training loop: the same for the main phase and for the epochs with frozen batch norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.data.batch import Batch
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.data.order import StreamOrder
from pipeline.engines.engine import Engine, OptimizerState
from pipeline.evaluation.metrics import is_telling
from pipeline.evaluation.validation import Validation, validate
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StopRequested
from pipeline.ground.seeds import derive_seed
from pipeline.ground.stop import StopFlag
from pipeline.tracking.events import EventLog
from pipeline.tracking.wording import epoch
from pipeline.training.batching import BatchSplit
from pipeline.training.branch_weights import BranchWeights
from pipeline.training.cadence import Cadence
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.nan_guard import NanGuard
from pipeline.training.running_statistics import average_running_statistics
from pipeline.training.saver import Saver
from pipeline.training.schedule import LearningRate, Plateau
from pipeline.training.state import TrainingState
from pipeline.training.throughput import Throughput
from pipeline.training.validation_record import ValidationRecord
from pipeline.training.world import describe_world


@dataclasses.dataclass(frozen=True)
class Phase:
    """The optimizer steps of a stage, counted from 0 over the whole run: first_step to last_step - 1."""

    first_step: int
    last_step: int
    follows_plateau: bool = False
    """Whether its validations move a plateau schedule, which may end it before `last_step`."""


class Trainer:
    """Trains one phase, from its start or from an earlier attempt of the stage."""

    def __init__(
        self,
        config: Config,
        train: ImageIndex,
        val: ImageIndex,
        phase: Phase,
        split: BatchSplit,
        engine: Engine,
        collective: Collective,
        store: CheckpointStore,
        events: EventLog,
        stop: StopFlag,
    ) -> None:
        self._config = config
        self._train = train
        self._val = val
        self._images = image_digests(train, val)
        self._order = StreamOrder(len(train), config.train.global_batch, config.seed)
        self._phase = phase
        self._split = split
        self._engine = engine
        self._collective = collective
        self._events = events
        self._stop = stop
        self._cadence = Cadence(config, self._order, phase.last_step)
        self._learning_rate = LearningRate(config.schedule, config.optim.lr, self._order, config.train.epochs)
        self._preprocessor = Preprocessor(
            config.input, config.augmentation, collective.device, config.execution.channels_last
        )
        self._branch_weights = BranchWeights(engine.model, config.seed, split.micro_batch, collective.device)
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing)
        self._loader = build_train_loader(
            train,
            config,
            collective.ranks,
            collective.device,
            micro_batch=split.micro_batch,
            first_step=phase.first_step,
            last_step=phase.last_step,
        )
        self._global_step = phase.first_step
        self._validations = ValidationRecord()
        self._plateau = Plateau()
        self._nan_guard = NanGuard(collective)
        self._saver = Saver(store, engine, collective, events)

    def warm_up(self) -> None:
        """Prepare the engine for the first step; see `Engine.warm_up`."""
        size = self._config.train.image_size_px
        self._engine.warm_up((self._split.micro_batch, 3, size, size))

    def resume(self, state: TrainingState, path: Path) -> None:
        """Resume from a checkpoint of this phase, whose tensors the engine holds already."""
        self._loader.load_state_dict(dict(state.loader))
        self._events.rewind(state.events)
        self._global_step = self._saver.step = state.global_step
        self._validations = ValidationRecord(**state.validations)
        self._saver.newest = path

    @property
    def global_step(self) -> int:
        """Number of steps taken since the beginning of the run."""
        return self._global_step

    def continue_schedule(self, state: TrainingState) -> None:
        """Go on with the learning rate that a checkpoint ended with, of this phase or the one before."""
        self._plateau = Plateau(**state.plateau)

    def run(self) -> ValidationRecord:
        """Train to the end of the phase, its last checkpoint included. Returns the record of validations.

        Raises StopRequested after saving if a stop was requested, and TrainingDiverged if the loss or the weights are
        not finite.
        """
        self._saver.prepare()
        throughput = Throughput(self._split.global_batch)
        batches = iter(self._loader)
        try:
            with self._stop.hangups():
                while not self._is_over():
                    loss = self._train_step(batches, throughput)
                    self._global_step += 1
                    self._after_step(loss, throughput)
                self._save_to_the_end()
        finally:
            self._loader.close()
            self._saver.close()
        return self._validations

    def _is_over(self) -> bool:
        has_ended = self._phase.follows_plateau and self._plateau.has_ended
        return has_ended or self._global_step >= self._phase.last_step

    def _train_step(self, batches: Iterator[Batch], throughput: Throughput) -> torch.Tensor:
        """Take one optimizer step. Returns this process's part of its mean loss, on the device."""
        step = self._global_step
        # Dropout and pixel jitter draw from generators whose state depends on the step and rank alone.
        torch.manual_seed(derive_seed(self._config.seed, "step", step, self._collective.ranks.rank))
        first_place = step * self._split.global_batch + self._collective.ranks.rank * self._split.local_batch
        total = torch.zeros((), device=self._collective.device)
        for index in range(self._split.accumulation):
            with throughput.waiting_for_data():
                batch = next(batches)
            images = self._preprocessor.training(batch)
            labels = batch.labels.to(self._collective.device, non_blocking=True)
            self._branch_weights.draw(first_place + index * self._split.micro_batch)
            with self._engine.accumulating(last=index == self._split.accumulation - 1):
                loss = self._criterion(self._engine.forward(images), labels) / self._split.accumulation
                self._engine.backward(loss)
            total += loss.detach()
        self._nan_guard.look(total, step + 1)
        self._engine.step(self._learning_rate.at(step, self._plateau.drops))
        if self._config.train.bn_statistics == "mean":
            average_running_statistics(self._engine.model, self._collective)
        throughput.step_done()
        return total

    def _after_step(self, loss: torch.Tensor, throughput: Throughput) -> None:
        """Log, validate, save and stop as the cadence says. The order matters: a checkpoint holds the validation."""
        self._saver.poll()
        step = self._global_step
        lr, is_last = self._learning_rate.at(step - 1, self._plateau.drops), step == self._phase.last_step
        if step % self._config.tracking.log_every_steps == 0 or step == self._phase.first_step + 1 or is_last:
            self._log(loss, lr, throughput)
        self._show_progress(throughput)
        if self._cadence.validates_after(step):
            with throughput.paused():
                self._validate()
        if self._cadence.saves_after(step) or self._is_over():
            with throughput.paused():
                self._save()
        # The answer is that of the step before: nobody waits here for the slowest rank.
        if self._collective.any_when_last_asked(self._stop.is_set) and not self._is_over():
            self._save_to_the_end()
            raise StopRequested(
                f"stopped on request ({self._stop.reason or 'another process was asked'}) after step {step}, saved in "
                f"{self._saver.newest}; the same command goes on from there"
            )

    def _log(self, loss: torch.Tensor, lr: float, throughput: Throughput) -> None:
        """Write one train event. Reads the loss from the device, so it waits for the step."""
        self._check_loss()
        (total,) = self._collective.sum_floats([float(loss)])
        speed = throughput.read()
        self._events.write(
            "train",
            **self._moment(),
            loss=total / self._collective.ranks.world_size,
            lr=lr,
            images_per_second=speed.images_per_second,
            data_wait_percent=speed.data_wait_percent,
        )

    def _moment(self) -> dict[str, int | float]:
        position = self._order.epoch_of(self._global_step)
        return {"global_step": self._global_step, "epoch": round(float(position), 4)}

    def _show_progress(self, throughput: Throughput) -> None:
        self._events.show(
            "progress",
            done=self._global_step - self._phase.first_step,
            total=self._phase.last_step - self._phase.first_step,
            unit="steps",
            rate=throughput.recent,
            text=epoch(float(self._order.epoch_of(self._global_step)))
            + (" (how many depends on validation)" if self._phase.follows_plateau else ""),
        )

    def _validate(self) -> None:
        self._check_loss()
        self._engine.synchronise_buffers()
        result: Validation = validate(
            self._engine.model,
            self._val,
            self._config.train.validation,
            self._config,
            self._collective,
            self._preprocessor,
        )
        fields = {**self._moment(), **dataclasses.asdict(result)}
        if not is_telling(5, len(self._val.classes)):
            del fields["top5_error_percent"]
        self._validations.add(fields)
        self._events.write("validation", **fields)
        if self._phase.follows_plateau and not self._learning_rate.is_warming_up(self._global_step):
            self._follow_plateau(result.loss)

    def _follow_plateau(self, loss: float) -> None:
        before = self._learning_rate.at(self._global_step, self._plateau.drops)
        self._plateau.add(loss, self._config.schedule)
        now = self._learning_rate.at(self._global_step, self._plateau.drops)
        what = "training ends" if self._plateau.has_ended else f"the learning rate falls from {before:g} to {now:g}"
        if now < before or self._plateau.has_ended:
            text = f"no better validation loss for {self._config.schedule.patience + 1} epochs: {what}"
            self._events.show("note", level="info", text=text)

    def _save(self) -> None:
        self._check_loss()
        self._saver.save(self._global_step, self._validations.note_saving(self._global_step), self._state)

    def _state(self, optimizer: OptimizerState) -> TrainingState:
        return TrainingState(
            global_step=self._global_step,
            model=self._engine.model.state_dict(),
            optimizer=optimizer,
            loader=self._loader.state_dict(),
            events=self._events.position(),
            validations=dataclasses.asdict(self._validations),
            images=self._images,
            num_images=self._order.num_images,
            global_batch=self._order.global_batch,
            world=describe_world(self._config, self._train, self._collective, self._split),
            plateau=dataclasses.asdict(self._plateau),
        )

    def _save_to_the_end(self) -> None:
        """Save the last step if necessary, and wait until it is on disk."""
        if self._saver.step != self._global_step:
            self._save()
        self._saver.finish()

    def _check_loss(self) -> None:
        """Check the loss of the weights before the step; the writer checks the weights after it."""
        bad_step = self._nan_guard.first_bad_step()
        if bad_step is not None:
            self._saver.finish()
            raise self._saver.diverged(f"the loss was NaN or infinite in step {bad_step}")


def image_digests(train: ImageIndex, val: ImageIndex) -> dict[str, str]:
    """Return the digest of the index by split: they identify the images that a result was made from."""
    return {"train": train.digest, "val": val.digest}
