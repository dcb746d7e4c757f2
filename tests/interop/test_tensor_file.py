from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from pipeline.ground.errors import UserError
from pipeline.interop.tensor_file import read_tensor_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._marker),)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()},
        {"epoch": 3, "state_dict": TENSORS, "optimizer": {"lr": 0.1}},
        {"model": {"state_dict": TENSORS}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}},
    ],
    ids=["plain", "ordered", "parameters", "checkpoint", "nested", "parallel"],
)
def test_a_state_dict_is_found_however_it_is_wrapped(tmp_path, content, is_zip):
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    found = read_tensor_file(tmp_path / "w.pth", "torch")
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], tensor) and not found[name].requires_grad for name, tensor in TENSORS.items())


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_never_run(tmp_path, is_zip):
    path, marker = tmp_path / "w.pth", tmp_path / "code has run"
    for content in (Payload(marker), {"state_dict": TENSORS, "epoch": Payload(marker)}):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError, match=r"w\.pth: refused: it asks for posix\.mkdir, which could run code"):
            read_tensor_file(path, "torch")
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_never_run(tmp_path):
    path, marker = tmp_path / "w.pth", tmp_path / "code has run"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Payload(marker), protocol))
        with pytest.raises(UserError, match=r"w\.pth: (refused|not a readable PyTorch file)") as caught:
            read_tensor_file(path, "torch")
        assert "weights_only" not in str(caught.value), "the advice to run it is passed on"
    assert not marker.exists()


def test_a_whole_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear, .* only tensors are read"):
        read_tensor_file(tmp_path / "w.pth", "torch")


def test_a_torchscript_program_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("w/constants.pkl", "w/data.pkl", "w/version"):
            archive.writestr(name, b"3\n")
    with pytest.raises(UserError, match=r"w\.pt: this is a TorchScript program; its tensors alone are needed"):
        read_tensor_file(tmp_path / "w.pt", "torch")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short_is_refused(tmp_path, is_zip):
    torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    whole = (tmp_path / "w.pth").read_bytes()
    for kept in (5, len(whole) // 3, len(whole) // 2, len(whole) - 8):
        (tmp_path / "w.pth").write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"w\.pth: (not a readable PyTorch file|.* or it is damaged)"):
            read_tensor_file(tmp_path / "w.pth", "torch")


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content if "/data/" not in name else b"\0" * (1 << 24))
    with pytest.raises(UserError, match=r"bomb\.pth: refused, no PyTorch file is like this: w/data.pkl is compressed"):
        read_tensor_file(tmp_path / "bomb.pth", "torch")


def test_records_that_share_their_bytes_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
        archive.writestr("w/data/0", b"\0" * 4096)
        for number in range(1, 5):
            record = zipfile.ZipInfo(f"w/data/{number}")
            first = archive.infolist()[0]
            record.header_offset, record.CRC = first.header_offset, first.CRC
            record.file_size = record.compress_size = first.file_size
            archive.filelist.append(record)
            archive.NameToInfo[record.filename] = record
    with pytest.raises(UserError, match=r"bomb\.pth: refused, .*: records of 20,480 bytes in a file of"):
        read_tensor_file(tmp_path / "bomb.pth", "torch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([TENSORS["a.bias"]], "found a list"),
        ({}, "found an empty dict"),
        ({"epoch": 3, "lr": 0.1}, "found a int at 'epoch'"),
        ({"a": {"b": TENSORS}}, "found a dict of 'b' at 'a'"),
        ({"a": torch.eye(2).to_sparse()}, "found a Tensor at 'a'"),
        ({"a": torch.empty(1 << 40, device="meta")}, "found a Tensor at 'a'"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: must be a state dict, names with tensors \({message}\)"):
        read_tensor_file(tmp_path / "w.pth", "torch")
