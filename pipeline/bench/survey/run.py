"""`python -m pipeline.bench survey`: measurements of a GPU in one call of bounded length.

Every row is on disk as soon as it is measured, so an interrupted survey keeps its rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.record import FORMAT, describe_machine, write_record
from pipeline.bench.roofline import measure_peaks, training_floor_seconds
from pipeline.bench.rounds import aligned
from pipeline.bench.survey.clock import Deadline
from pipeline.bench.survey.convolution import survey_convolutions
from pipeline.bench.survey.network import (
    Networks,
    both_networks,
    survey_compiled,
    survey_eager,
    survey_graph,
    survey_kernels,
)
from pipeline.bench.survey.operation import survey_batch_norms, survey_sgd
from pipeline.bench.survey.scope import Scope
from pipeline.ground.errors import UserError
from pipeline.networks.layers import layer_table

Rows = Iterator[dict[str, Any]]

_SHARES = {
    "grouped convolutions": 0.2,
    "batch norms": 0.05,
    "sgd": 0.03,
    "eager steps": 0.35,
    "CUDA graph": 0.05,
    "kernels of the best": 0.05,
    "compiled steps": 1.0,
}
"""The parts in order, each with its largest fraction of the whole time; the last takes the rest."""
_RESERVE_SECONDS = 15
"""Reserved for unfinished work of a part when its time is over."""


def survey_gpu(out: Path, minutes: float) -> None:
    """Survey this process's GPU in at most `minutes` and write the JSON file `out`. Raises UserError without a GPU."""
    if not torch.cuda.is_available():
        raise UserError("survey: measures a CUDA device, and this machine shows none")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder")
    torch.backends.cudnn.benchmark = True
    scope = Scope(torch.device("cuda", torch.cuda.current_device()))
    networks = both_networks(scope)
    record: dict[str, Any] = {"format": FORMAT, "benchmark": "survey", "machine": describe_machine()}
    peaks = measure_peaks(scope.device)
    layers = layer_table(scope.model, scope.num_classes, scope.image_size_px)
    record["peaks"] = {"flops_per_second": peaks.flops_per_second, "bytes_per_second": peaks.bytes_per_second}
    record["roofline images/s"] = {
        batch: batch / training_floor_seconds(layers, batch, peaks) for batch in scope.batches
    }
    record["parts"] = {}
    survey_parts(scope, networks, record, out, 60 * minutes - _RESERVE_SECONDS)
    for name, rows in record["parts"].items():
        print(f"\n{name}\n" + "\n".join(_table(rows)))
    print(f"\neverything: {out}")


def survey_parts(scope: Scope, networks: Networks, record: dict[str, Any], out: Path, seconds: float) -> None:
    """Run all parts in turn; every row goes to `record["parts"]` and, with the rest of the record, to `out`."""
    whole = Deadline(seconds)
    parts: dict[str, list[dict[str, Any]]] = record["parts"]
    works: dict[str, Callable[[Deadline], Rows]] = {
        "grouped convolutions": lambda deadline: survey_convolutions(scope, deadline),
        "batch norms": lambda deadline: survey_batch_norms(scope, deadline),
        "sgd": lambda deadline: survey_sgd(scope, deadline),
        "eager steps": lambda deadline: survey_eager(scope, networks, deadline),
        "CUDA graph": lambda deadline: survey_graph(scope, networks, deadline),
        "kernels of the best": lambda deadline: _kernels(scope, networks, parts["eager steps"]),
        "compiled steps": lambda deadline: survey_compiled(scope, networks, deadline),
    }
    for name, share in _SHARES.items():
        started = time.monotonic()
        parts[name] = []
        deadline = Deadline(min(share * seconds, whole.seconds_left))
        for row in works[name](deadline):
            parts[name].append(row)
            write_record(out, record)
        write_record(out, record)
        print(f"{name}: {len(parts[name])} rows, {time.monotonic() - started:.0f} s", flush=True)


def _kernels(scope: Scope, networks: Networks, steps: list[dict[str, Any]]) -> Rows:
    measured = [row for row in steps if "images/s" in row]
    if measured:
        yield from survey_kernels(scope, networks, max(measured, key=lambda row: float(row["images/s"])))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Format the rows for a terminal: medians only, without redundant columns."""
    shown = [{key: _cell(value) for key, value in row.items() if key != "execution"} for row in rows]
    columns = list(dict.fromkeys(key for row in shown for key in row))
    return aligned([columns, *([row.get(column, "") for column in columns] for row in shown)])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = value["median"]
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
