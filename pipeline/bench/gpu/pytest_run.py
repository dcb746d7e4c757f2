"""The tests marked `gpu` that prove most, by pytest."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from pipeline.bench.gpu.scope import Scope
from pipeline.ground.interpreter import SOURCE


def run_tests(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each test; one that did not pass, even by skipping itself, is an error."""
    importlib.import_module("pytest")
    for test in scope.tests:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rA", test], cwd=SOURCE, capture_output=True, text=True
        )
        outcomes = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR)\b(.*)$", done.stdout, flags=re.MULTILINE)
        has_passed = done.returncode == 0 and [outcome for outcome, _ in outcomes] == ["PASSED"]
        said = "; ".join(f"{outcome}{rest}" for outcome, rest in outcomes) or (done.stdout + done.stderr)[-500:]
        yield {
            "test": test.partition("::")[2],
            "seconds": time.monotonic() - started,
            **({"outcome": "passed"} if has_passed else {"error": said}),
        }
