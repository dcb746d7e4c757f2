"""`python -m launch tune CONFIG`: find the fastest way to train a recipe on this machine by trying.

A child process, which may import torch, measures (`pipeline.bench.autotune`); its findings are kept in the user's cache
for this device, these versions, this network and batch. The recipe itself is never changed: results depend on the
arithmetic, so the user writes the overrides.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from launch.console import say, show, table
from pipeline.bench.advice import Finding, Identity, Probe, advise, read_probe
from pipeline.bench.cell import Cell
from pipeline.config.reader import load_config
from pipeline.config.schema import Config
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED
from pipeline.ground.interpreter import module_environment

SECONDS = 120.0
"""Time limit of a probe; what is not measured by then is left out."""


def print_tuning(config_path: Path, overrides: Sequence[str], *, again: bool) -> int:
    """Print every way to train with its speed, and the overrides to add. Returns the exit code.

    Findings of an earlier call are not measured again, unless `again` is set.
    """
    config = load_config(config_path, overrides)
    execution = config.execution
    has_graphs = config.native is not None and config.native.cuda_graphs
    recipe = Cell(execution.precision, execution.channels_last, execution.compile, has_graphs)
    say("starting PyTorch and looking at this machine")
    with _child(config) as lines:
        first = _next(lines, None)
        if first is None:
            return EXIT_FAILED
        identity = Identity(**first["identity"])
        probe = None if again else read_probe(identity)
        say(
            f"{identity.model}, {identity.batch} images of {identity.image_size_px} px, on {identity.device}, "
            f"torch {identity.torch}"
        )
        if probe is None:
            probe = _measure(identity, [Cell(**cell) for cell in first["cells"]], lines)
            say(f"measured now, kept in {probe.save()}")
        else:
            say(f"measured {probe.date}, kept in {identity.cache_file()}; --again measures anew")
    ways = table("", "images/s", "")
    for finding in probe.findings:
        speed = "" if finding.images_per_second is None else f"{finding.images_per_second:,.1f}"
        ways.add_row(str(finding.cell), speed, finding.problem or ("the recipe's" if finding.cell == recipe else ""))
    show(ways)
    for line in advise(probe, recipe):
        say(line)
    return EXIT_DONE


def _measure(identity: Identity, cells: list[Cell], lines: queue.Queue[bytes]) -> Probe:
    """Collect findings until all ways are known or the time is over."""
    say(f"trying {len(cells)} ways to train, {SECONDS:.0f} s at most; compiled ones come last")
    deadline = time.monotonic() + SECONDS
    findings = []
    for number, cell in enumerate(cells, start=1):
        say(f"[{number}/{len(cells)}] measuring {cell}{', which is compiled first' if cell.compile else ''}")
        fields = _next(lines, deadline)
        if fields is None:
            break
        findings.append(Finding(cell, fields["images_per_second"], fields["problem"]))
    late = [Finding(cell, None, f"not measured within {SECONDS:.0f} s") for cell in cells[len(findings) :]]
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Probe(identity, date, (*findings, *late))


@contextlib.contextmanager
def _child(config: Config) -> Iterator[queue.Queue[bytes]]:
    """Start the probing process and yield its lines as they come, with an empty one at its end; the process ends with
    the context."""
    # In a group of its own, so that its compiler processes end with it.
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.bench.autotune"],
        env={"OMP_WAIT_POLICY": "PASSIVE", **module_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(config.model_dump(mode="json")).encode())
            child.stdin.close()
        yield lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(output: IO[bytes], lines: queue.Queue[bytes]) -> None:
    for line in output:
        lines.put(line)
    lines.put(b"")


def _next(lines: queue.Queue[bytes], deadline: float | None) -> dict[str, Any] | None:
    """Return the next line's fields, or None if the child has ended (after printing why) or the time, if any, is
    over."""
    try:
        line = lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None
    fields: dict[str, Any] | None = json.loads(line) if line else None
    return fields
