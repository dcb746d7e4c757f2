from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ground.errors import UserError
from pipeline.store.manifest import MANIFEST, Manifest, describe_outputs, read_manifest, verify_outputs, write_manifest


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    (tmp_path / "part").mkdir()
    (tmp_path / "result.bin").write_bytes(b"0123456789")
    (tmp_path / "part" / "more.txt").write_text("more")
    outputs = describe_outputs(tmp_path, ["result.bin", "part/more.txt"])
    write_manifest(tmp_path, Manifest("train", "abc", {"build": "def"}, outputs, {"seed": 1}, {}, {"step": 7}))
    return tmp_path


def test_what_is_read_is_what_was_written_and_it_verifies(finished: Path) -> None:
    manifest = read_manifest(finished)
    assert manifest is not None
    assert (manifest.stage, manifest.key, manifest.inputs, manifest.metrics) == (
        "train",
        "abc",
        {"build": "def"},
        {"step": 7},
    )
    verify_outputs(finished, manifest)


def test_no_manifest_means_not_done(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "train"}', '{"outputs": 3}', '{"outputs": {"a": {}}}'])
def test_a_corrupt_manifest_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(
        UserError, match=rf"{MANIFEST}: not a readable manifest .*delete this file to run the stage again"
    ):
        read_manifest(tmp_path)


def test_every_changed_output_is_named(finished: Path) -> None:
    manifest = read_manifest(finished)
    assert manifest is not None
    (finished / "result.bin").write_bytes(b"0123456780")
    (finished / "part" / "more.txt").unlink()
    with pytest.raises(UserError) as caught:
        verify_outputs(finished, manifest)
    message = str(caught.value)
    assert "result.bin: its content has changed since it was written (SHA-256 differs)" in message
    assert "more.txt: missing" in message
    assert "to run stage 'train' again" in message
