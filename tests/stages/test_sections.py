from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.identity import leaves
from pipeline.config.reader import write_run_config
from pipeline.config.section import Kind
from pipeline.config.view import view
from pipeline.ground.errors import EXIT_DONE
from pipeline.running import runner
from stages import STAGES
from tests.data.indexing import write_pictures
from tests.recipes import small_recipe

pytestmark = pytest.mark.processes


def test_every_result_key_is_read_by_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that nobody reads would change keys and no result."""
    for label in range(4):
        write_pictures(tmp_path / "train" / f"class{label}", 18)
    read: set[str] = set()
    monkeypatch.setattr(runner, "view", lambda config, sections: view(config, sections, read))
    settled = {"kind": "plateau", "drop_epochs": [], "patience": 0, "threshold": 0.99}
    plateau = {"schedule": settled, "freeze_bn": {"statistics": "recompute", "statistics_images": 24}}
    padded = {"augmentation": {"crop": "padded", "padding_px": 6, "rotation_degrees": 0.0}}
    for number, choices in enumerate(({}, plateau | padded)):
        run, data = tmp_path / f"run{number}", {"shards": str(tmp_path / "shards"), "val_fraction": 0.3}
        config = small_recipe(tmp_path, data=data, report={"activations": True}, **choices)
        write_run_config(run, config)
        for stage in STAGES:
            assert runner.run_stage(stage.name, config, run, STAGES) == EXIT_DONE
    assert {leaf.name for leaf in leaves() if leaf.kind is Kind.RESULT} - read == set()
