from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.weights import load_tensors, load_weights, read_weights, save_weights
from pipeline.store.file import explain
from pipeline.store.weight_header import read_metadata

TENSORS = {
    "weight": torch.arange(24.0).reshape(1, 2, 3, 4),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([3.0], dtype=torch.bfloat16),
    "counter": torch.tensor(41),
    "double": torch.tensor([[1 / 3]], dtype=torch.float64),
}


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _row(start: int, end: int, count: int = 2) -> dict[str, object]:
    return {"dtype": "F32", "shape": [count], "data_offsets": [start, end]}


def test_tensors_and_metadata_come_back_as_they_were(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS, {"model": "senet154", "mean": "[123.675, 116.28]"})
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_metadata(tmp_path / "w.safetensors") == {"model": "senet154", "mean": "[123.675, 116.28]"}


def test_file_is_ordinary_safetensors(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TENSORS, {})
    found = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_same_content_gives_the_same_bytes_in_any_order_and_layout(tmp_path: Path) -> None:
    metadata = {"model": "senet154", "seed": "1", "num_classes": "1000"}
    save_weights(tmp_path / "a", TENSORS, metadata)
    reordered = dict(reversed(TENSORS.items()))
    reordered["weight"] = TENSORS["weight"].to(memory_format=torch.channels_last)
    save_weights(tmp_path / "b", reordered, dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_full_disk_is_named_and_leaves_the_file_before_it(tmp_path: Path, file_size_limit: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"x": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"w\.safetensors") as caught:
        save_weights(path, {"x": torch.ones(file_size_limit)}, {})
    assert str(explain(caught.value)).startswith(f"{path}: a limit on the size of files")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """No file of this process may grow beyond 64 KiB, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield 1 << 16
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_weights_put_into_a_network_are_the_file_s(tmp_path: Path) -> None:
    source = create_model("senet_nano", 10, seed=1)
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    model = create_model("senet_nano", 10, seed=2)
    load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_network_without_memory_is_made_when_it_is_loaded(tmp_path: Path) -> None:
    source = create_model("senet_nano", 10, seed=1)
    save_weights(tmp_path / "w.safetensors", source.state_dict(), {})
    with torch.device("meta"):
        model = create_model("senet_nano", 10)
    load_weights(model, tmp_path / "w.safetensors")
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(model.eval()(images), source.eval()(images))


def test_loaded_weights_are_no_part_of_the_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", create_model("senet_nano", 10, seed=1).state_dict(), {})
    tensors = read_weights(tmp_path / "w.safetensors")
    with torch.device("meta"):
        model = create_model("senet_nano", 10)
    load_tensors(model, tensors, "w")
    theirs = {tensor.data_ptr() for tensor in tensors.values()}
    assert not theirs & {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_from_before_batch_counters_load() -> None:
    source = {name: tensor for name, tensor in create_model("senet_nano", 10, seed=1).state_dict().items()}
    old = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    model = create_model("senet_nano", 10)
    counter = model.state_dict()["layer0.bn1.num_batches_tracked"]
    counter.fill_(5)
    load_tensors(model, old, "cadene.safetensors")
    assert counter == 0
    assert torch.equal(model.state_dict()["last_linear.weight"], source["last_linear.weight"])


def test_weights_of_another_architecture_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with torch.device("meta"):
        other = create_model("senet154", 10).state_dict()
    load = create_model("senet_nano", 10)
    before = {name: tensor.clone() for name, tensor in load.state_dict().items()}
    tensors = {name: torch.zeros(1) for name in other} | {"layer0.conv1.weight": torch.zeros(64, 3, 3, 3)}
    save_weights(path, tensors, {})
    with pytest.raises(UserError) as caught:
        load_weights(load, path)
    assert str(caught.value).split("\n")[0] == f"{path}: these weights are not this network's"
    assert "unexpected: layer1.1.bn1.bias, layer1.1.bn1.num_batches_tracked, layer1.1.bn1.running_mean, ..." in str(
        caught.value
    )
    assert "of another shape: layer0.conv1.weight is (64, 3, 3, 3), not (16, 3, 3, 3), layer0.bn1.weight" in str(
        caught.value
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in load.state_dict().items())


def test_other_number_of_classes_is_the_only_difference_named() -> None:
    tensors = create_model("senet_nano", 1000).state_dict()
    with pytest.raises(UserError) as caught:
        load_tensors(create_model("senet_nano", 10), tensors, "w")
    assert str(caught.value) == (
        "w: these weights are not this network's\n"
        "  2 of 126 tensors of another shape: "
        "last_linear.weight is (1000, 256), not (10, 256), last_linear.bias is (1000,), not (10,)"
    )


def test_missing_tensors_and_wrong_types_are_named() -> None:
    tensors = dict(create_model("senet_nano", 10).state_dict())
    del tensors["layer0.conv2.weight"]
    tensors["layer0.bn1.weight"] = tensors["layer0.bn1.weight"].long()
    with pytest.raises(UserError) as caught:
        load_tensors(create_model("senet_nano", 10), tensors, "w")
    assert "1 of 126 tensors missing: layer0.conv2.weight" in str(caught.value)
    assert "1 of 126 tensors of another type: layer0.bn1.weight is torch.int64, not torch.float32" in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors: cannot be read as a weight file \(No such file"):
        read_weights(tmp_path / "none.safetensors")


def test_directory_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as a weight file \(Is a directory\)"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 300, -1])
def test_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable safetensors file"):
        read_weights(path)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{not json", b""),
        (b"\xff\xfe{}", b""),
        ({"x": _row(0, 8), "y": _row(4, 12)}, b"\0" * 12),
        ({"x": _row(0, 8)}, b"\0" * 4),
        ({"x": _row(0, 8)}, b"\0" * 16),
        ({"x": _row(8, 0)}, b"\0" * 8),
        ({"x": _row(0, 8, count=3)}, b"\0" * 8),
        ({"x": _row(0, 8, count=1 << 61)}, b"\0" * 8),
        ({"x": _row(0, 8) | {"dtype": "PICKLE"}}, b"\0" * 8),
        ({"x": _row(0, 8) | {"shape": [-2]}}, b"\0" * 8),
        ({"x": "y"}, b""),
        ({"__metadata__": {"a": {"b": "c"}}}, b""),
        ([1, 2], b""),
    ],
    ids=["bad json", "bad utf-8", "overlap", "too few bytes", "unclaimed bytes", "backwards", "wrong size", "overflow",
         "unknown type", "negative shape", "no row", "nested metadata", "a list"],
)  # fmt: skip
def test_hostile_header_is_refused(tmp_path: Path, header: object, data: bytes) -> None:
    path = _file(tmp_path / "w.safetensors", header, data)
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable safetensors file"):
        read_weights(path)


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_header_that_claims_to_be_too_long_is_refused_without_the_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable safetensors file"):
        read_weights(path)


class _Payload:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._marker),)


def test_pickle_under_a_safe_name_is_refused_and_never_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "w.safetensors", tmp_path / "code has run"
    zipped = io.BytesIO()
    torch.save(_Payload(marker), zipped)
    for content in (zipped.getvalue(), pickle.dumps(_Payload(marker)), pickle.dumps(_Payload(marker), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(
            UserError,
            match=r"this is a pickle \(\.pth\), which could run code when loaded; convert it to safetensors: ",
        ):
            read_weights(path)
    assert not marker.exists()


def test_web_page_under_a_weight_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("<!DOCTYPE html><title>404</title>")
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable safetensors file"):
        read_metadata(tmp_path / "w.safetensors")
