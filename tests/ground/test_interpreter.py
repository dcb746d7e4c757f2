from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ground.interpreter import module_environment


@pytest.mark.parametrize("path", [None, "", "{other}", ":{other}", "{other}:"])
def test_a_module_of_ours_is_found_whatever_lies_in_the_working_directory(path: str | None, tmp_path: Path) -> None:
    """`export PYTHONPATH=$PYTHONPATH:/some/where` leaves an empty entry, which stands for the working directory."""
    for name in ("stages", "pipeline", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')")
    other = tmp_path / "other"
    other.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path.format(other=other)
    done = subprocess.run(
        [sys.executable, "-m", "stages", "--help"],
        cwd=tmp_path,
        env=module_environment(environment),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
