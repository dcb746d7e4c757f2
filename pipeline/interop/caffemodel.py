"""Read and write Caffe's weight files: one protobuf message, with the parts of caffe.proto that hold names and numbers.

The schema is built here from the names, numbers and types of the fields. protobuf skips all other fields.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipeline.ground.errors import UserError
from pipeline.store.file import replacing

_MOST_BYTES = 2**31 - 1
"""Protobuf's own limit for a message."""
_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "BlobShape": (("dim", 1, "packed int64"),),
    "BlobProto": (
        ("num", 1, "int64"),
        ("channels", 2, "int64"),
        ("height", 3, "int64"),
        ("width", 4, "int64"),
        ("data", 5, "packed float"),
        ("shape", 7, "BlobShape"),
        ("double_data", 8, "packed double"),
    ),
    "BatchNormParameter": (("eps", 3, "float"),),
    "LayerParameter": (
        ("name", 1, "string"),
        ("type", 2, "string"),
        ("blobs", 7, "repeated BlobProto"),
        ("batch_norm_param", 139, "BatchNormParameter"),
    ),
    # The layers of files from before 2014, which had no batch norm: read for their names only.
    "V1LayerParameter": (("name", 4, "string"),),
    "NetParameter": (
        ("name", 1, "string"),
        ("layers", 2, "repeated V1LayerParameter"),
        ("layer", 100, "repeated LayerParameter"),
    ),
}
_BATCH_NORM_EPS = 1e-5
"""caffe.proto's default."""

Blob = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class CaffeLayer:
    """A layer with weights."""

    name: str
    kind: str
    blobs: tuple[Blob, ...]
    eps: float
    """Epsilon of a batch norm; meaningless for other kinds."""


@functools.cache
def message_class(name: str) -> Any:
    """Return the class of one of Caffe's messages, such as NetParameter, with the fields needed here."""
    file = descriptor_pb2.FileDescriptorProto(name="pipeline/caffe.proto", package="caffe", syntax="proto2")
    for message, fields in _FIELDS.items():
        descriptor = file.message_type.add(name=message)
        for field_name, number, kind in fields:
            field = descriptor.field.add(name=field_name, number=number)
            *labels, kind = kind.split()
            field.label = field.LABEL_REPEATED if labels else field.LABEL_OPTIONAL
            field.options.packed = labels == ["packed"]
            if kind in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


def read_caffemodel(path: Path) -> tuple[CaffeLayer, ...]:
    """Read the layers with weights, in the file's order.

    Takes about three times the file's size of memory for a moment. Raises UserError if the file is damaged, too old, or
    of another kind.
    """
    net = _parsed(path)
    if not net.layer and net.layers:
        raise UserError(
            f"{path}: a Caffe file from before batch norm existed ({len(net.layers)} layers, "
            f"the first: {', '.join(layer.name for layer in net.layers[:3])}); no SENet is in one"
        )
    if not net.layer:
        raise UserError(f"{path}: neither a PyTorch, safetensors nor Caffe weight file")
    layers = []
    for layer in net.layer:
        place = f"{path}: layer {layer.name[:80]}"
        blobs = tuple(_array(blob, place) for blob in layer.blobs)
        # The message's copy is no longer needed.
        layer.ClearField("blobs")
        eps = layer.batch_norm_param.eps if layer.batch_norm_param.HasField("eps") else _BATCH_NORM_EPS
        if blobs:
            layers.append(CaffeLayer(layer.name, layer.type, blobs, eps))
    if not layers:
        raise UserError(
            f"{path}: a Caffe file of {len(net.layer)} layers without weights; is it the network's description?"
        )
    return tuple(layers)


def write_caffemodel(path: Path, name: str, layers: Iterable[CaffeLayer]) -> None:
    """Write a network of that name with the layers' weights; the file appears whole or not at all."""
    net = message_class("NetParameter")(name=name)
    for layer in layers:
        message = net.layer.add(name=layer.name, type=layer.kind)
        for values in layer.blobs:
            blob = message.blobs.add()
            blob.shape.dim.extend(values.shape)
            blob.data.extend(values.ravel())
    with replacing(path) as temporary:
        temporary.write_bytes(net.SerializeToString())


def _parsed(path: Path) -> Any:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UserError(f"{path}: {size:,} bytes; a Caffe weight file is a protobuf message, which has at most 2 GiB")
    net = message_class("NetParameter")()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path}: neither a PyTorch nor a safetensors file, nor a whole Caffe weight file") from error
    return net


def _array(blob: Any, place: str) -> Blob:
    values = np.array(blob.data if len(blob.data) else blob.double_data, dtype=np.float32)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if min(shape, default=1) < 0 or math.prod(shape) != values.size:
        raise UserError(f"{place}: {values.size:,} values for the shape {shape}; the file is damaged")
    return values.reshape(shape)
