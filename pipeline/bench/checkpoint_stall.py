"""`python -m pipeline.bench checkpoint`: the time that training stops for a checkpoint, and all that it costs."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.clock import synchronise
from pipeline.bench.measurement import Contestant, Work, cpu_seconds, measure
from pipeline.bench.rounds import Comparison, Quantity, figure
from pipeline.bench.setting import bench_config
from pipeline.engines import create_engine
from pipeline.engines.engine import Engine, OptimizerState
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.models.batch_norm import frozen_digest
from pipeline.networks.registry import NETWORKS
from pipeline.store.file import replacing
from pipeline.training.background_writer import BackgroundWriter
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.nan_guard import NanGuard
from pipeline.training.state import TrainingState

_ON_DISK, _CPU = "s until on disk", "CPU s"
_ADDED, _ALONE = "s added", "s without"
_STEPS = 20
_OF_LAUNCHING = 1.5
"""Duration of a step that a GPU would take, as a multiple of the host's work on it."""
_STALL = Quantity("stall ms", lambda done: 1e3 * done.wall_seconds, digits=1)


def compare_saving(
    model: str, directory: Path | None, *, rounds: int, progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[Comparison]]:
    """Save weights and momentum of `model`, in a folder made in `directory` and removed afterwards.

    The stall is the time until training may change its tensors again, including the trainer's check before saving. The
    rest of its cost shows in the time that it adds to the steps behind it, as it is written beside them.
    Raises UserError if `directory` does not exist.
    """
    if directory is not None and not directory.is_dir():
        raise UserError(f"--directory: {directory} is no folder")
    config, collective = bench_config(), Collective(Ranks(), timeout_seconds=60)
    engine = create_engine(create_model(model, config.model.reckoned_classes), config, collective)
    momentum = {name: torch.randn_like(parameter) for name, parameter in engine.model.named_parameters()}
    engine.load_state_dict(OptimizerState(momentum, {}))
    size = sum(tensor.nbytes for tensor in [*engine.model.state_dict().values(), *momentum.values()])
    trainings = [_computing(engine, model, collective.device)]
    if collective.device.type == "cpu":
        trainings.append(_launching(model, config.model.reckoned_classes))
    title = f"saving {model}: {size / 1e6:,.0f} MB of weights and momentum, {collective.device}"
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as name:
        folder = Path(name)
        with contextlib.closing(
            BackgroundWriter(CheckpointStore(folder / "checkpoints", keep_last=1, keep_best=False))
        ) as writer:
            ours = _Ours(writer, engine, NanGuard(collective), collective.device)
            plain = _TorchSave(folder / "plain.pt", engine)
            contestants = [
                Contestant("ours", "ours", ours.run, ours.settle),
                Contestant("torch.save, flushed and renamed", "peer", plain.run),
            ]
            alone = measure(contestants, rounds, progress=progress)
            comparisons = [Comparison(title, (_STALL, figure(_ON_DISK), figure(_CPU)), tuple(alone))]
            for training in trainings:
                while_training = [
                    dataclasses.replace(contestant, run=partial(training.run, contestant.run))
                    for contestant in contestants
                ]
                beside = measure(while_training, rounds, warm_up=0, progress=progress)
                title = f"{training.text}, with one checkpoint in them"
                comparisons.append(Comparison(title, (figure(_ADDED), figure(_ALONE)), tuple(beside)))
    return {"directory": str(directory or tempfile.gettempdir())}, comparisons


@dataclasses.dataclass(frozen=True)
class _Training:
    """Steps beside which a checkpoint is written."""

    step: Callable[[], object]
    device: torch.device
    text: str

    def run(self, save: Callable[[], Work]) -> Work:
        """Take the steps without a checkpoint and with one after the first of them, and compare."""
        alone = self._seconds(lambda: None)
        return Work(_STEPS, {_ALONE: alone, _ADDED: self._seconds(save) - alone})

    def _seconds(self, save: Callable[[], object]) -> float:
        started = time.perf_counter()
        for number in range(_STEPS):
            self.step()
            if number == 0:
                save()
        synchronise(self.device)
        return time.perf_counter() - started


def _computing(engine: Engine, model: str, device: torch.device) -> _Training:
    """Return steps of the engine, at a rate of 0 so that the weights stay finite."""
    batch, size = (32, NETWORKS[model].image_size_px) if device.type == "cuda" else (2, 32)
    images = torch.randn(batch, 3, size, size, device=device)

    def step() -> None:
        engine.backward(engine.forward(images).logsumexp(1).mean())
        engine.step(0.0)

    for _ in range(_STEPS):  # cuDNN chooses its kernels
        step()
    return _Training(step, device, f"{_STEPS} steps of {batch} images of {size} px")


def _launching(model: str, num_classes: int) -> _Training:
    """Return steps as a GPU takes them, for a host that has none: it launches their operations, which compute nothing,
    and sleeps until they would be done."""
    side = NETWORKS[model].image_size_px
    with torch.device("meta"):
        network, images = create_model(model, num_classes), torch.empty(32, 3, side, side)

    def launch() -> None:
        network(images).logsumexp(1).mean().backward()

    launch()  # imports
    started = time.perf_counter()
    launch()
    seconds = _OF_LAUNCHING * (time.perf_counter() - started)

    def step() -> None:
        end = time.perf_counter() + seconds
        launch()
        time.sleep(max(0.0, end - time.perf_counter()))

    text = f"{_STEPS} steps of {seconds:.2g} s as of a GPU, which the host launches and waits for"
    return _Training(step, torch.device("cpu"), text)


class _Ours:
    """Saving as in the stages `train` and `freeze_bn`: check, copy, and write in the background with checksums."""

    def __init__(self, writer: BackgroundWriter, engine: Engine, nan_guard: NanGuard, device: torch.device) -> None:
        self._writer = writer
        self._engine = engine
        self._nan_guard = nan_guard
        self._device = device
        self._step = 0
        self._started = self._cpu_before = 0.0

    def run(self) -> Work:
        """Start one checkpoint: the part for which training waits."""
        self._step += 1
        self._started, self._cpu_before = time.perf_counter(), cpu_seconds()
        self._nan_guard.first_bad_step()
        frozen_digest(self._engine.model)
        model, optimizer = self._engine.model.state_dict(), self._engine.state_dict()
        self._writer.start(TrainingState(self._step, model, optimizer, {}, None, {}, {}, 0, 0, {}), None)
        # The next step's work is queued behind the copies, so they are part of the stall.
        synchronise(self._device)
        return Work(1)

    def settle(self) -> dict[str, float]:
        """Wait until it is on disk."""
        self._writer.wait()
        return {_ON_DISK: time.perf_counter() - self._started, _CPU: cpu_seconds() - self._cpu_before}


class _TorchSave:
    """Saving as in a training script that makes its checkpoint survive a crash."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine

    def run(self) -> Work:
        """Write one checkpoint."""
        started, cpu_before = time.perf_counter(), cpu_seconds()
        content = {"model": self._engine.model.state_dict(), "momentum": self._engine.state_dict().tensors}
        with replacing(self._path) as temporary:
            torch.save(content, temporary)
        return Work(1, {_ON_DISK: time.perf_counter() - started, _CPU: cpu_seconds() - cpu_before})
