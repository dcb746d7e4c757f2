"""`python -m pipeline.bench growth`: CPU time and memory of what grows with the images or with the record of a run.

Each step runs in a process of its own. A step is linear if its time a row does not rise with the number of rows.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.measurement import Contestant, Work, measure
from pipeline.bench.rounds import Comparison, Quantity, figure
from pipeline.bench.setting import bench_config
from pipeline.data.augmentation import draw_augmentation
from pipeline.data.index import ImageIndex, make_index, read_index, write_index
from pipeline.data.order import StreamOrder
from pipeline.data.sampling import sample_crops
from pipeline.ground.interpreter import SOURCE
from pipeline.store.seal import SEAL, read_seal, seal_directory
from pipeline.tracking.events import EventLog, read_events

_CPU, _PEAK = "CPU s", "peak MB"
_A_ROW = Quantity("CPU us a row", lambda done: 1e6 * done.figures[_CPU] / done.units)

_WATCHER = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""Between this process and a measured one, since Linux counts the memory of the process that starts another in the
peak of that one."""

Arguments = Callable[[Path, int], list[str]]
"""Returns the arguments of `python -m` for a run with so many rows."""


def compare_growth(
    images: Sequence[int], lines: Sequence[int], *, rounds: int, progress: Callable[[str], None]
) -> tuple[dict[str, Any], list[Comparison]]:
    """Return a comparison for each step, of so many images of a made-up index, or so many lines of a record."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        progress("running the demo to its end")
        finished = finished_run(folder)
        of_images = {count: _with_images(finished, folder / f"{count}-images", count, progress) for count in images}
        of_lines = {count: _with_lines(finished, folder / f"{count}-lines", count, progress) for count in lines}
        by_images = {
            "index made, written and read": _step("index"),
            "order and crops of an epoch": _step("order"),
            "plan": lambda run, _: ["launch", "plan", f"{run}/config.yaml", "--run", str(run)],
            "report, by images": _report,
        }
        by_lines = {
            "record read": _step("read"),
            "record opened again": _step("open"),
            "status": lambda run, _: ["launch", "status", str(run)],
            "report, by lines": _report,
        }
        comparisons = [
            *_compare(by_images, of_images, "images", rounds, progress),
            *_compare(by_lines, of_lines, "lines", rounds, progress),
        ]
    return {"run": "the demo's, two epochs"}, comparisons


def _step(name: str) -> Arguments:
    return lambda run, count: ["pipeline.bench.growth", name, str(run), str(count)]


def _report(run: Path, _: int) -> list[str]:
    return ["stages", "report", "--run", str(run)]


def _compare(
    steps: Mapping[str, Arguments],
    runs: Mapping[int, Path],
    unit: str,
    rounds: int,
    progress: Callable[[str], None],
) -> Iterator[Comparison]:
    for title, arguments in steps.items():
        progress(title)
        contestants = [
            Contestant(f"{count:,} {unit}", "other", _round(arguments(run, count), run, count))
            for count, run in runs.items()
        ]
        taken = measure(contestants, rounds, warm_up=0)
        yield Comparison(title, (_A_ROW, figure(_CPU), figure(_PEAK)), tuple(taken))


def finished_run(folder: Path) -> Path:
    """Return a run of the demo that is done but for its report."""
    run = folder / "run"
    short = ["train.epochs=2", "train.frozen_epochs=1", "schedule.warmup_epochs=0", "tracking.wandb=disabled"]
    for stage in ("prepare", "build", "train", "freeze_bn", "evaluate", "fuse"):
        _used_by(["launch", "run", "configs/demo.yaml", *short, "--run", str(run), "--only", stage])
    return run


def _with_images(finished: Path, run: Path, count: int, progress: Callable[[str], None]) -> Path:
    """Return a copy of a run whose training images are `count` made-up ones."""
    progress(f"making an index of {count:,} images")
    shutil.copytree(finished, run)
    directory = _part(run, "prepare-train")
    index = _made_index(read_index(directory), count)
    write_index(directory, index)
    for sealed in run.glob(f"*/{SEAL}"):
        seal = read_seal(sealed.parent, "stage")
        assert seal is not None
        if "train" in seal.about["images"]:  # every stage would refuse what was made from other images
            about = {**seal.about, "images": {**seal.about["images"], "train": index.digest}}
            seal_directory(sealed.parent, "stage", about, seal.files)
    return run


def _made_index(real: ImageIndex, count: int) -> ImageIndex:
    generator = np.random.default_rng(0)
    return make_index(
        real.split,
        real.dataset,
        real.classes,
        [f"n01440764/n01440764_{number}.JPEG" for number in range(count)],
        np.arange(count) % len(real.classes),
        generator.integers(10_000, 200_000, count),
        generator.integers(300, 600, count),
        generator.integers(300, 600, count),
        generator.integers(0, 256, (count, 32), dtype=np.uint8),
        np.zeros(count),
    )


def _with_lines(finished: Path, run: Path, count: int, progress: Callable[[str], None]) -> Path:
    """Return a copy of a run whose training has a record of `count` lines."""
    progress(f"making a record of {count:,} lines")
    shutil.copytree(finished, run)
    (first, *_) = read_events(_part(run, "train"), "train")
    fields = {name: value for name, value in first.items() if name not in ("kind", "time", "number", "crc")}
    with contextlib.closing(EventLog(_part(run, "train"))) as events:
        events.rewind(None)
        for step in range(1, count + 1):
            events.write("train", **{**fields, "global_step": step, "epoch": 2 * step / count})
    return run


def _part(run: Path, name: str) -> Path:
    (directory,) = run.glob(f"{name}-*")
    return directory


def _index(run: Path, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=run) as folder:
        write_index(Path(folder), _made_index(read_index(_part(run, "prepare-train")), count))
        assert len(read_index(Path(folder)).names) == count


def _order(run: Path, count: int) -> None:
    """Plan an epoch as the loader does, all of it at once."""
    index, config = read_index(_part(run, "prepare-train")), bench_config()
    positions, epochs = StreamOrder(count, 2048, config.seed).images_at(np.arange(count))
    heights, widths = index.heights[positions], index.widths[positions]
    drawn = draw_augmentation(config.augmentation, config.seed, positions, epochs, heights, widths, 224)
    sample_crops(config.augmentation, config.input, drawn, 224, heights, widths)


def _read(run: Path, count: int) -> None:
    assert sum(1 for _ in read_events(_part(run, "train"))) == count


def _open(run: Path, count: int) -> None:
    with contextlib.closing(EventLog(_part(run, "train"))) as events:
        assert events.position()["number"] == count


def _round(arguments: Sequence[str], run: Path, count: int) -> Callable[[], Work]:
    """Return a round: `python -m` with these arguments, and what it used."""

    def measured() -> Work:
        for directory in run.glob("report-*"):  # which is not written twice
            shutil.rmtree(directory)
        cpu_seconds, peak_kb = _used_by(arguments)
        return Work(count, {_CPU: cpu_seconds, _PEAK: peak_kb / 1e3})

    return measured


def _used_by(arguments: Sequence[str]) -> tuple[float, int]:
    """Run `python -m` with these arguments. Returns CPU seconds and peak memory, in kB, of it and its children.

    Raises RuntimeError with what it printed if it fails.
    """
    command = [sys.executable, "-S", "-c", _WATCHER, sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True)
    code, cpu_seconds, peak_kb = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(arguments[:3])} ended with {code}: {done.stderr}")
    return cpu_seconds, peak_kb


_STEPS: dict[str, Callable[[Path, int], None]] = {"index": _index, "order": _order, "read": _read, "open": _open}
"""Those that are no commands of the program, by the name that this module takes."""

if __name__ == "__main__":
    _STEPS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
