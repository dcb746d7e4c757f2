"""The rows in order, most knowledge first, and the process of one row. Imports no torch.

`python -m pipeline.bench.gpu.rows NAME` reads a `Scope` as JSON from stdin and prints figures as JSON, a line each, as
soon as it has them; at its end, if it is not whole, why.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.bench.gpu.scope import Scope
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED
from pipeline.ground.stop import stop_with_parent

_OURS = ("pipeline", "stages", "launch")

Measure = Callable[[Scope], Iterator[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A check, in a process of its own."""

    title: str
    module: str
    function: str
    seconds: int
    """Its limit in a run of `FULL_MINUTES`, the start of its process included; longer and shorter runs have other ones
    in proportion."""

    @property
    def measure(self) -> Measure:
        """Import the module. Raises ModuleNotFoundError if it needs a package that is not installed."""
        measure: Measure = getattr(importlib.import_module(f"pipeline.bench.gpu.{self.module}"), self.function)
        return measure


FULL_MINUTES = 7
ROWS = {
    "rates": Row("peaks and transfers", "rates", "measure_rates", 30),
    "decoding": Row("JPEGs on the GPU against the CPU", "decoding", "measure_decoding", 40),
    "loading": Row("the loader alone", "loading", "measure_loading", 60),
    "recipe": Row("the recipes' step, eager and with CUDA graphs", "steps", "measure_recipe_steps", 50),
    "layouts": Row("layouts and types", "steps", "measure_layouts", 60),
    "kernels": Row("kernels of the fastest step", "steps", "measure_kernels", 30),
    "convolutions": Row("grouped convolutions", "convolution", "measure_convolutions", 30),
    "resuming": Row("training stopped and resumed", "resuming", "measure_resuming", 100),
    "tests": Row("tests that prove most", "pytest_run", "run_tests", 60),
    "compiled": Row("the fastest step compiled by block", "steps", "measure_compiled_step", 90),
    "scoring": Row("evaluation", "scoring", "measure_scoring", 40),
    "saving": Row("a checkpoint", "saving", "measure_saving", 40),
    "zero": Row("DeepSpeed's ZeRO 1", "saving", "measure_zero", 30),
}


def run_row(row: Row, scope: Scope, show: Callable[[dict[str, Any]], None]) -> int:
    """Pass each figure to `show`, and at the end a package that is missing or an error. Returns the exit code."""
    try:
        for figures in row.measure(scope):
            show({"figures": figures})
    except ModuleNotFoundError as error:
        package = error.name or str(error)
        if package.partition(".")[0] in _OURS:
            raise
        show({"lacks": package})
    except Exception as error:
        traceback.print_exc()
        show({"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})
        return EXIT_FAILED
    return EXIT_DONE


def main() -> int:
    """Run the row that the command names."""
    stop_with_parent()
    # What libraries print is none of the figures.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    scope = Scope(**json.load(sys.stdin))
    return run_row(ROWS[sys.argv[1]], scope, lambda fields: print(json.dumps(fields), file=output, flush=True))


if __name__ == "__main__":
    sys.exit(main())
