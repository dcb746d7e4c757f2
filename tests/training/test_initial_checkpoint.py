from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.training.initial_checkpoint import initial_step


def test_step_of_a_checkpoint(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"global_step": 9, "files": {}}))
    assert initial_step(str(tmp_path)) == 9


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"stage": "train", "outputs": {}}', '{"global_step": 9}'])
def test_what_is_no_checkpoint_is_refused_by_the_name_of_the_key(tmp_path: Path, manifest: str | None):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=rf"freeze_bn\.from_checkpoint: must be .* \(given {tmp_path}\)"):
        initial_step(str(tmp_path))


def test_a_stage_given_instead_of_its_checkpoint_is_answered_with_the_newest(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "latest.json").write_text(json.dumps({"checkpoint": "step-00000180"}))
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "train"}))
    for place in (tmp_path, checkpoints):
        with pytest.raises(UserError, match=rf"given {place}; its newest is {checkpoints}/step-00000180\)"):
            initial_step(str(place))
