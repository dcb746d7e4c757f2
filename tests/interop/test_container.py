from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pipeline.ground.errors import UserError
from pipeline.interop.container import recognise
from pipeline.models.weights import save_weights


def test_kinds_are_told_by_content_and_not_by_name(tmp_path):
    path = tmp_path / "weights.bin"
    save_weights(path, {"a": torch.ones(1)}, {})
    assert recognise(path) == "safetensors"
    torch.save({"a": torch.ones(1)}, path)
    assert recognise(path) == "torch"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert recognise(path) == "torch"
    path.write_bytes(b"\n\x05SENet")
    assert recognise(path) == "caffe"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x12\x01" + bytes(30), "an MXNet parameter file; MXNet was retired in 2023 and no kept-up package reads it"),
        (b"  <!DOCTYPE html><title>404</title>", "this is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "this is an HDF5 file"),
    ],
)
def test_what_is_known_to_be_something_else_is_named(tmp_path, content, message):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(UserError, match=rf"w: {message}|w: this is {message}"):
        recognise(tmp_path / "w")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file or directory\)"):
        recognise(tmp_path / "none")


def test_what_is_no_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=rf"^{path}: must be a file \(given a folder, a pipe or a device\)$"):
            recognise(path)
