"""`python -m pipeline.bench gpu`: all rows within some minutes, each in a process of its own with a limit of its own.

A process, since what hangs or crashes in one row must not cost the others. What there is lies on disk after each row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.bench.gpu.pictures import write_pictures
from pipeline.bench.gpu.rows import FULL_MINUTES, ROWS
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.gpu.steps import fastest
from pipeline.bench.gpu.summary import as_markdown
from pipeline.bench.images import image_folder
from pipeline.bench.record import FORMAT, describe_machine, write_record
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, UserError
from pipeline.ground.interpreter import module_environment
from pipeline.store.file import write_bytes

_LEAST_SECONDS = 10
"""A row with less time than this is not begun."""
_ERROR_CHARACTERS = 2000
"""Of what a failed row has printed, the end."""
DONE = "done"
_LACKS = "lacks "


def measure_gpu(out: Path, minutes: float, images: Path | None) -> int:
    """Measure this process's GPU in at most `minutes`, and write `gpu.json` and `gpu.md` into the folder `out`.

    `images` is a folder or tar of JPEG files; None: made ones. Returns the exit code: 1 if a row is not whole for
    another reason than a package that is not installed. Raises UserError without a GPU, and if `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is no folder; name one, or one that is yet to be made")
    if not torch.cuda.is_available():
        raise UserError("gpu: measures a CUDA device, and this machine shows none")
    with image_folder(images, write_pictures) as folder:
        scope = Scope(str(folder), device=f"cuda:{torch.cuda.current_device()}")
        return measure_rows(scope, out, 60 * minutes)


def measure_rows(scope: Scope, out: Path, seconds: float, names: tuple[str, ...] = tuple(ROWS)) -> int:
    """Run the named rows in turn within `seconds` altogether. Returns the exit code as `measure_gpu` does."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    record: dict[str, Any] = {
        "format": FORMAT,
        "benchmark": "gpu",
        "machine": {**describe_machine(), "cuda": torch.version.cuda},
        "scope": dataclasses.asdict(scope),
        "rows": {},
    }
    for name in names:
        limit = min(ROWS[name].seconds * seconds / (60 * FULL_MINUTES), end - time.monotonic())
        row = _run(name, scope, limit) if limit >= _LEAST_SECONDS else _not_begun(limit)
        record["rows"][name] = row
        if name == "layouts":
            scope = dataclasses.replace(scope, best=fastest(row["figures"]))
        write_record(out / "gpu.json", record)
        write_bytes(out / "gpu.md", as_markdown(record).encode())
        print(f"{ROWS[name].title}: {row['outcome']} ({len(row['figures'])} figures, {row['seconds']} s)", flush=True)
    print(f"\n{out / 'gpu.md'}, {out / 'gpu.json'}")
    is_whole = all(row["outcome"] == DONE or row["outcome"].startswith(_LACKS) for row in record["rows"].values())
    return EXIT_DONE if is_whole else EXIT_FAILED


def _run(name: str, scope: Scope, limit: float) -> dict[str, Any]:
    """Run a row until it ends or its limit is over, and then end all its processes."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors, _process(name, errors) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found: list[dict[str, Any]] = []
        reader = threading.Thread(target=_read, args=(process.stdout, found), daemon=True)
        reader.start()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(dataclasses.asdict(scope)).encode())
            process.stdin.close()
        try:
            code = process.wait(limit)
            reader.join(limit)
        except subprocess.TimeoutExpired:
            code = None
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - _ERROR_CHARACTERS))
        printed = errors.read().decode(errors="replace")
    outcome = f"cut off at its limit of {limit:.0f} s" if code is None else _outcome(found, code)
    return {
        "outcome": outcome,
        "seconds": round(time.monotonic() - started, 1),
        "limit": round(limit),
        "figures": [fields["figures"] for fields in found if "figures" in fields],
        **({} if outcome == DONE else {"printed": printed}),
    }


def _not_begun(limit: float) -> dict[str, Any]:
    return {"outcome": "no time left", "seconds": 0.0, "limit": round(max(0.0, limit)), "figures": []}


def _outcome(found: list[dict[str, Any]], code: int) -> str:
    for fields in found:
        if "error" in fields:
            return f"failed: {fields['error']}"
    if code != 0:
        return f"failed: the process ended with {code}"
    for fields in found:
        if "error" in fields.get("figures", {}):
            return f"failed in part: {fields['figures']['error']}"
    lacking = [fields["lacks"] for fields in found if "lacks" in fields]
    return f"{_LACKS}{lacking[0]}" if lacking else DONE


@contextlib.contextmanager
def _process(name: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a row's process in a group of its own, so that those that it starts end with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.bench.gpu.rows", name],
        env=module_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(output: IO[bytes], found: list[dict[str, Any]]) -> None:
    for line in output:
        with contextlib.suppress(ValueError):  # half a line, of a process that was cut off
            found.append(json.loads(line))
