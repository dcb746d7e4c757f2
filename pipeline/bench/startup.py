"""`python -m pipeline.bench startup`: the time until an answer, and until the first optimizer step.

Every contestant is a new process in every round. "cold" is as after an installation: Python finds no compiled modules
and has to compile them; the machine's file cache is not cleared.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.bench.measurement import Contestant, Work, measure
from pipeline.bench.rounds import Comparison, Quantity, figure
from pipeline.data.digits import write_digits
from pipeline.ground.interpreter import SOURCE
from pipeline.tracking.events import EVENTS, read_events

_SECONDS = Quantity("s", lambda done: done.wall_seconds)
_CPU = Quantity("CPU s", lambda done: done.cpu_seconds)
_FIRST_STEP = "s to the first step"
_IMPORTS = ("launch.plan", "torch", "pipeline.data.dali", "pipeline.training.trainer")
_PLAIN_SCRIPT = """
import sys, time
import torch
from torchvision import datasets
from torchvision.transforms import v2
from pipeline.models import create_model

model = create_model("senet_nano", 10).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
transform = v2.Compose([v2.RandomResizedCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
images = datasets.ImageFolder(sys.argv[1], transform)
batches = torch.utils.data.DataLoader(images, batch_size=64, shuffle=True, num_workers=2)
for pixels, labels in batches:
    torch.nn.functional.cross_entropy(model(pixels), labels).backward()
    optimizer.step()
    print(time.time(), flush=True)
    break
"""
"""The shortest script that reaches a first step on the same images: no recipe, index, checkpoint or record."""


def compare_answers(*, rounds: int, progress: Callable[[str], None], modules: Sequence[str] = _IMPORTS) -> Comparison:
    """Measure `launch --help`, and the imports of the alternatives."""
    processes = [
        _process("launch --help", ["-m", "launch", "--help"]),
        *(_process(f"import {name}", ["-c", f"import {name}"]) for name in modules),
    ]
    return Comparison("answers and imports", (_SECONDS, _CPU), tuple(measure(processes, rounds, progress=progress)))


def compare_first_steps(
    *, rounds: int, progress: Callable[[str], None], warm_up: int = 1, with_cold: bool = True
) -> Comparison:
    """Measure the time from the command to the first step of the demo's training, against a plain script of PyTorch.

    `with_cold`: ours also without Python's compiled modules.
    """
    with _demo_run() as (run, images), tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        numbers = itertools.count(1)
        first_step = [
            Contestant("ours, stage train by launch", "ours", lambda: _our_first_step(run, next(numbers), {})),
            Contestant("plain PyTorch script", "peer", lambda: _plain_first_step(images)),
        ]
        if with_cold:
            first_step.append(
                Contestant(
                    "ours, cold",
                    "other",
                    lambda: _our_first_step(run, next(numbers), cold_start(Path(scratch))),
                )
            )
        taken = measure(first_step, rounds, warm_up=warm_up, progress=progress)
    quantities = (figure(_FIRST_STEP), _CPU)
    return Comparison("from the command to the first step, digits", quantities, tuple(taken))


def cold_start(scratch: Path) -> dict[str, str]:
    """Return an environment in which Python finds no compiled modules: a new, empty place for them."""
    return {"PYTHONPYCACHEPREFIX": tempfile.mkdtemp(dir=scratch)}


def _process(name: str, arguments: Sequence[str]) -> Contestant:
    def run() -> Work:
        _python(arguments, {})
        return Work(1)

    return Contestant(name, "other", run)


@contextlib.contextmanager
def _demo_run() -> Iterator[tuple[Path, Path]]:
    """Yield a run of the demo whose first two stages are done, and its training images."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        run, images = Path(name) / "run", Path(name) / "digits"
        write_digits(images, "train")
        for stage in ("prepare", "build"):
            _python([*_launch(run), "--only", stage], {})
        yield run, images


def _launch(run: Path) -> list[str]:
    """Return the command for one epoch on the digits, without anything else that takes time."""
    short = ["train.epochs=1", "train.frozen_epochs=0", "schedule.warmup_epochs=0", "tracking.wandb=disabled"]
    return ["-m", "launch", "run", "configs/demo.yaml", *short, "--run", str(run)]


def _our_first_step(run: Path, number: int, environment: Mapping[str, str]) -> Work:
    started = time.time()
    # Another learning rate is another directory, so every round trains anew, and prepare and build stay done.
    _python([*_launch(run), f"optim.lr={0.05 + 1e-6 * number:f}", "--only", "train", "--accept-changes"], environment)
    newest = max(run.glob(f"train-*/{EVENTS}"), key=lambda path: path.stat().st_mtime)
    first = next(iter(read_events(newest.parent, "train")))
    return Work(1, {_FIRST_STEP: first["time"] - started})


def _plain_first_step(images: Path) -> Work:
    started = time.time()
    answer = _python(["-c", _PLAIN_SCRIPT, str(images)], {})
    return Work(1, {_FIRST_STEP: float(answer) - started})


def _python(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the output of a new Python; an error ends the benchmark with its message."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=SOURCE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:4])} ended with {done.returncode}: {done.stderr}")
    return done.stdout
