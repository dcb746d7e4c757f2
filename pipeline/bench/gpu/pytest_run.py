"""The tests marked `gpu` that prove most, by pytest."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.bench.gpu.scope import Scope
from pipeline.ground.interpreter import SOURCE

_PROBLEMS = ("failure", "error", "skipped")


def run_tests(scope: Scope) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each test; one that did not pass, even by skipping itself, is an error.

    Raises RuntimeError with pytest's words if it could not begin, and ModuleNotFoundError without pytest.
    """
    importlib.import_module("pytest")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *scope.tests],
            cwd=SOURCE,
            capture_output=True,
            text=True,
        )
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    if len(cases) != len(scope.tests):
        raise RuntimeError(f"pytest ran {len(cases)} of {len(scope.tests)} tests: {(done.stdout + done.stderr)[-500:]}")
    for case in cases:
        problems = [f"{child.tag}: {child.get('message')}" for child in case if child.tag in _PROBLEMS]
        outcome = {"error": "; ".join(problems)} if problems else {"outcome": "passed"}
        yield {"test": case.get("name"), "seconds": float(case.get("time", "nan")), **outcome}
