"""What a checkpoint costs, and a step under DeepSpeed's ZeRO 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.bench.cell import Cell
from pipeline.bench.checkpoint_stall import compare_saving
from pipeline.bench.clock import figures_or_error, time_work
from pipeline.bench.gpu.scope import Scope
from pipeline.bench.step import our_step
from pipeline.engines.deepspeed_package import check_installed
from pipeline.ground.errors import UserError

_ROUNDS = 2


def measure_saving(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the figures of `bench checkpoint`."""
    _, comparisons = compare_saving(scope.model, None, rounds=_ROUNDS, progress=lambda text: None)
    for measurements in zip(*(comparison.measurements for comparison in comparisons), strict=True):
        row: dict[str, Any] = {"contestant": measurements[0].name}
        for comparison, measured in zip(comparisons, measurements, strict=True):
            spreads = {quantity.name: quantity.spread(measured) for quantity in comparison.quantities}
            row |= {name: spread.median for name, spread in spreads.items() if spread is not None}
        yield row


def measure_zero(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield a step of the native engine and one under ZeRO 1. Raises ModuleNotFoundError without DeepSpeed."""
    try:
        check_installed()
    except UserError as error:
        raise ModuleNotFoundError(str(error), name="deepspeed") from error
    task = scope.task(scope.batch)
    cell = Cell(scope.precisions[0], channels_last=True, compile=False)
    zero = {"engine": "deepspeed", "deepspeed": {"zero_stage": 1}}
    for name, sections in (("native", {}), ("deepspeed, ZeRO 1", zero)):
        yield {
            "engine": name,
            **figures_or_error(
                lambda sections=sections: {  # type: ignore[misc]
                    "images/s": scope.batch / time_work(our_step(task, cell, **sections), task.device).median
                }
            ),
        }
