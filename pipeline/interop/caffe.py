"""The authors' own weights, such as SENet.caffemodel, with the layer names of their prototxts.

They differ from every port in three ways. Images are BGR on the 0 to 255 scale with a mean and no scale: the first
convolution's input channels are reversed here; mean and scale stay the authors', since a convolution without bias that
pads with zeros cannot absorb another mean. A batch norm is two layers, of which the first keeps sums and their divisor.
And the classes are in the devkit's order, which differs from ours for every class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.preprocessing import Preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop.caffemodel import Blob, CaffeLayer
from pipeline.interop.layout import SENETS
from pipeline.networks.authors_table import prototxt_name
from pipeline.networks.layers import IMAGES, layer_table, norms_of_convolutions

PREPROCESSING = Preprocessing((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), "bilinear")

_BATCH_NORM_EPS = 1e-5
_NUM_DEVKIT_CLASSES = 1000
PUBLISHED = (*SENETS, "se_bn_inception", "se_bn_inception_nano")
"""Those that the authors published, and small ones of their kinds."""
_NORM = ("weight", "bias", "running_mean", "running_var")


def to_tensors(path: Path, layers: Sequence[CaffeLayer], network: str) -> dict[str, torch.Tensor]:
    """Return our tensors of a network, except for the batch counters, which Caffe does not have.

    A classifier of 1000 classes is taken for the contest's and reordered to the sorted WordNet ids; any other keeps its
    order. Raises UserError naming the first layer that is missing, left over or of another shape.
    """
    if network not in PUBLISHED:
        raise UserError(f"{path}: has the convolutions of {network}, of which there is no Caffe file of the authors'")
    left = {layer.name: layer for layer in layers}
    tensors: dict[str, torch.Tensor] = {}
    table = layer_table(network)
    norms = norms_of_convolutions(table)
    for row in table:
        if row.kind not in ("conv", "fc"):
            continue
        name = prototxt_name(row)
        if row.kind == "fc":
            weight, bias = _blobs(path, left, name, "InnerProduct", 2)
            num_classes = weight.shape[-2] if weight.ndim >= 2 else 0
            weight = _shaped(path, name, weight, (num_classes, row.in_channels))
            bias = _shaped(path, name, bias, (num_classes,))
            if num_classes == _NUM_DEVKIT_CLASSES:
                rows = devkit_rows()
                weight, bias = weight[rows], bias[rows]
            tensors |= {f"{row.name}.weight": _tensor(weight), f"{row.name}.bias": _tensor(bias)}
            continue
        assert row.groups is not None
        assert isinstance(row.kernel, int)
        shape = (row.out_channels, row.in_channels // row.groups, row.kernel, row.kernel)
        blobs = _blobs(path, left, name, "Convolution", 2 if row.bias else 1)
        weight = _shaped(path, name, blobs[0], shape)
        tensors[f"{row.name}.weight"] = _tensor(weight[:, ::-1] if row.inputs == (IMAGES,) else weight)
        if row.bias:
            tensors[f"{row.name}.bias"] = _tensor(_shaped(path, name, blobs[1], (row.out_channels,)))
        else:
            tensors |= _batch_norm(path, left, name, norms[row.name].name, row.out_channels)
    if left:
        names = list(left)
        raise UserError(
            f"{path}: {len(names)} layers with weights that {network} does not have: {', '.join(names[:3])}"
        )
    return tensors


def to_layers(
    tensors: Mapping[str, torch.Tensor], network: str, preprocessing: Preprocessing | None
) -> Iterator[CaffeLayer]:
    """Yield the layers of a network of ours, the inverse of `to_tensors`.

    Caffe subtracts a mean and does not divide: the first convolution does, if the standard deviation is known.
    """
    table = layer_table(network)
    norms = norms_of_convolutions(table)
    std = torch.tensor(preprocessing.std if preprocessing else (1.0, 1.0, 1.0)).view(1, 3, 1, 1)
    for row in table:
        if row.kind not in ("conv", "fc"):
            continue
        name, weight, bias = prototxt_name(row), tensors[f"{row.name}.weight"], tensors.get(f"{row.name}.bias")
        if row.inputs == (IMAGES,):
            weight = (weight / std).flip(1)
        if row.kind == "fc" and len(weight) == _NUM_DEVKIT_CLASSES:
            labels = np.argsort(devkit_rows())
            weight, bias = weight[labels], tensors[f"{row.name}.bias"][labels]
        yield _layer(name, "InnerProduct" if row.kind == "fc" else "Convolution", weight, bias)
        if row.name in norms:
            values = {key: tensors[f"{norms[row.name].name}.{key}"] for key in _NORM}
            yield _layer(f"{name}/bn", "BatchNorm", values["running_mean"], values["running_var"], torch.ones(1))
            yield _layer(f"{name}/bn/scale", "Scale", values["weight"], values["bias"])


def _layer(name: str, kind: str, *tensors: torch.Tensor | None) -> CaffeLayer:
    return CaffeLayer(name, kind, tuple(tensor.numpy() for tensor in tensors if tensor is not None), _BATCH_NORM_EPS)


def devkit_rows() -> list[int]:
    """Return the row in the authors' classifier for each label (rank of its WordNet id)."""
    return [synset.ilsvrc2012_id - 1 for synset in read_ilsvrc2012().synsets]


def _batch_norm(
    path: Path, left: dict[str, CaffeLayer], conv: str, module: str, channels: int
) -> Mapping[str, torch.Tensor]:
    name = f"{conv}/bn"
    eps = left[name].eps if name in left else _BATCH_NORM_EPS
    if not math.isclose(eps, _BATCH_NORM_EPS, rel_tol=1e-3):
        raise UserError(f"{path}: layer {name}: eps is {eps:g}; the network's batch norms have {_BATCH_NORM_EPS:g}")
    mean, variance, factor = _blobs(path, left, name, "BatchNorm", 3)
    total = float(_shaped(path, name, factor, (1,))[0])
    scale = 0.0 if total == 0 else 1 / total
    gamma, beta = _blobs(path, left, f"{name}/scale", "Scale", 2)
    return {
        f"{module}.weight": _tensor(_shaped(path, f"{name}/scale", gamma, (channels,))),
        f"{module}.bias": _tensor(_shaped(path, f"{name}/scale", beta, (channels,))),
        f"{module}.running_mean": _tensor(_shaped(path, name, mean, (channels,)) * np.float32(scale)),
        f"{module}.running_var": _tensor(_shaped(path, name, variance, (channels,)) * np.float32(scale)),
    }


def _blobs(path: Path, left: dict[str, CaffeLayer], name: str, kind: str, count: int) -> tuple[Blob, ...]:
    if name not in left:
        raise UserError(f"{path}: layer {name} is missing or has no weights")
    layer = left.pop(name)
    if (layer.kind, len(layer.blobs)) != (kind, count):
        raise UserError(
            f"{path}: layer {name}: must be a {kind} with {count} blobs (found a {layer.kind} with {len(layer.blobs)})"
        )
    return layer.blobs


def _shaped(path: Path, name: str, blob: Blob, shape: tuple[int, ...]) -> Blob:
    """Remove the leading ones by which older files extend every shape to four dimensions."""
    kept = blob.shape[max(blob.ndim - len(shape), 0) :]
    if kept != shape or blob.size != math.prod(shape):
        raise UserError(f"{path}: layer {name}: weights are {blob.shape}, not {shape}")
    return blob.reshape(shape)


def _tensor(values: Blob) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
