from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.store.seal import SEAL
from pipeline.training.initial_checkpoint import initial_step
from tests.training.sealed import seal_checkpoint


def test_step_of_a_checkpoint(tmp_path: Path) -> None:
    assert initial_step(str(seal_checkpoint(tmp_path, 9))) == 9


@pytest.mark.parametrize("manifest", [None, '{"global_step": 9, "files": {}}'])
def test_what_is_no_checkpoint_is_refused_by_the_name_of_the_key(tmp_path: Path, manifest: str | None) -> None:
    """A checkpoint of version 0.1 is none."""
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=rf"freeze_bn\.from_checkpoint: must be .* \(given {tmp_path}\)"):
        initial_step(str(tmp_path))


@pytest.mark.parametrize("step", [b"32", b"10"])
def test_a_damaged_seal_is_named(tmp_path: Path, step: bytes) -> None:
    path = seal_checkpoint(tmp_path, 30)
    seal = (path / SEAL).read_bytes()
    (path / SEAL).write_bytes(seal.replace(b'"global_step": 30', b'"global_step": ' + step))
    with pytest.raises(UserError, match=f"^freeze_bn.from_checkpoint: not a whole checkpoint: {path / SEAL}: damaged"):
        initial_step(str(path))


def test_a_stage_given_instead_of_its_checkpoint_is_answered_with_the_newest(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (99, 180):
        seal_checkpoint(checkpoints, step)
    (tmp_path / SEAL).write_text("{}")
    for place in (tmp_path, checkpoints):
        with pytest.raises(UserError, match=rf"given {place}; its newest is {checkpoints}/step-00000180\)"):
            initial_step(str(place))
