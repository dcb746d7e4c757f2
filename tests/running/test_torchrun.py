from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_torchrun_s_own_variables_do_not_change_how_many_processes_run(tmp_path: Path) -> None:
    """PET_NNODES=2 would have it wait for a second machine."""
    (tmp_path / "one_rank.py").write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[2], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'] + sys.argv[1])\n"
    )
    others = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "7", "PET_NO_PYTHON": "1", "PET_RDZV_BACKEND": "static"}
    subprocess.run(
        [sys.executable, "-m", "pipeline.running.torchrun", "2", "one_rank", "--local-rank", str(tmp_path)],
        env={**os.environ, **others, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        timeout=120,
        check=True,
    )
    assert {path.name: path.read_text() for path in tmp_path.glob("[0-9]")} == {
        "0": "2--local-rank",
        "1": "2--local-rank",
    }
