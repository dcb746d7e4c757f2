from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.ground.errors import UserError
from pipeline.interop import caffemodel
from pipeline.interop.caffemodel import message_class, read_caffemodel


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def net(*layers: bytes) -> bytes:
    return field(1, b"SENet") + b"".join(field(100, layer) for layer in layers)


VALUES = np.arange(6, dtype=np.float32)
BLOB = field(5, VALUES.tobytes()) + field(7, field(1, bytes([2, 3])))


def test_bytes_as_caffe_writes_them_are_read(tmp_path: Path):
    # A name, a type, a bottom, a top, a blob, and a convolution's parameters, which are not needed.
    layer = (
        field(1, b"fc") + field(2, b"InnerProduct") + field(3, b"x") + field(4, b"y") + field(7, BLOB) + field(106, b"")
    )
    norm = field(1, b"bn") + field(2, b"BatchNorm") + field(7, BLOB) + field(139, b"\x1d" + struct.pack("<f", 0.5))
    empty = field(1, b"relu") + field(2, b"ReLU")
    (tmp_path / "w").write_bytes(net(layer, empty, norm))
    first, second = read_caffemodel(tmp_path / "w")
    assert (first.name, first.kind, second.name, second.eps) == ("fc", "InnerProduct", "bn", 0.5)
    assert first.eps == pytest.approx(1e-5)
    np.testing.assert_array_equal(first.blobs[0], VALUES.reshape(2, 3))


def test_doubles_and_four_old_dimensions_are_read(tmp_path: Path):
    doubles = field(8, VALUES.astype(np.float64).tobytes())
    old = bytes([1 << 3, 1, 2 << 3, 1, 3 << 3, 2, 4 << 3, 3])
    (tmp_path / "w").write_bytes(net(field(1, b"fc") + field(2, b"InnerProduct") + field(7, doubles + old)))
    (layer,) = read_caffemodel(tmp_path / "w")
    np.testing.assert_array_equal(layer.blobs[0], VALUES.reshape(1, 1, 2, 3))


def test_a_file_of_the_older_kind_is_named(tmp_path: Path):
    (tmp_path / "w").write_bytes(field(1, b"CaffeNet") + field(2, field(4, b"data")) + field(2, field(4, b"conv1")))
    with pytest.raises(UserError, match=r"before batch norm existed \(2 layers, the first: data, conv1\)"):
        read_caffemodel(tmp_path / "w")


def test_a_file_without_weights_is_named(tmp_path: Path):
    (tmp_path / "w").write_bytes(net(field(1, b"data")))
    with pytest.raises(UserError, match="a Caffe file of 1 layers without weights; is it the network's description"):
        read_caffemodel(tmp_path / "w")


def test_a_file_cut_short_is_refused(tmp_path: Path):
    whole = net(field(1, b"fc") + field(2, b"InnerProduct") + field(7, BLOB))
    for kept in range(8, len(whole)):
        (tmp_path / "w").write_bytes(whole[:kept])
        with pytest.raises(UserError, match="nor a whole Caffe weight file"):
            read_caffemodel(tmp_path / "w")


def test_more_than_protobuf_can_hold_is_refused_unread(tmp_path: Path):
    with (tmp_path / "w").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(UserError, match=r"2,147,483,648 bytes; a Caffe weight file .* at most 2 GiB"):
        read_caffemodel(tmp_path / "w")


def test_the_schema_keeps_to_itself():
    # Another package of the same process may have registered the whole of caffe.proto.
    assert message_class("NetParameter") is message_class("NetParameter")
    assert message_class("NetParameter").DESCRIPTOR.file.name == "pipeline/caffe.proto"
    assert caffemodel.message_class("BlobProto")().shape.dim == []
