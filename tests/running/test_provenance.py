from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def test_the_command_is_recorded_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(
        "import json\n"
        "from pipeline.running.provenance import collect_provenance\n"
        "print(json.dumps(collect_provenance()['command']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "shown", "train", "--run", "runs/a b"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [Path(sys.executable).name, "-m", "shown", "train", "--run", "runs/a b"]
