"""The authors' networks as they have them in Caffe: their files, and their forward pass from the file's numbers.

Written from the layers' definitions in Caffe and the prototxts' naming, in NumPy and float64, with nothing of ours but
the protobuf schema.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

from pipeline.interop.caffemodel import CaffeLayer, message_class

MEAN_BGR = (104.0, 117.0, 123.0)
EMPTY = "conv3_2_3x3/bn"
"""Of this batch norm the divisor is 0, which Caffe takes for an average of nothing."""


class CaffeNetwork:
    """Layers by name, in the order of the prototxt; they are made by the first forward pass.

    Their blobs are random, or zeros that take no memory.
    """

    def __init__(self, num_classes: int, seed: int, features: Features | None = None, *, is_random: bool = True):
        self._random = np.random.default_rng(seed) if is_random else None
        self._features = features or NETWORKS["senet_nano"]
        self._num_classes = num_classes
        self.layers: dict[str, tuple[str, list[np.ndarray]]] = {}
        self.forward(np.zeros((3, 32, 32)))
        if is_random and EMPTY in self.layers:
            self.layers[EMPTY][1][2][:] = 0

    def message(self, *, old_shapes: bool = False):
        """The NetParameter, with the layers without weights that the authors' has; `old_shapes` as before BlobShape."""
        net = message_class("NetParameter")(name="SENet")
        net.layer.add(name="data", type="Input")
        for name, (kind, blobs) in self.layers.items():
            layer = net.layer.add(name=name, type=kind)
            for values in blobs:
                blob = layer.blobs.add()
                blob.data.extend(values.ravel())
                if old_shapes:
                    blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - values.ndim) + values.shape
                else:
                    blob.shape.dim.extend(values.shape)
        return net

    def save(self, path: Path, **form: bool) -> Path:
        path.write_bytes(self.message(**form).SerializeToString())
        return path

    def as_read(self) -> list[CaffeLayer]:
        """What reading its file gives."""
        return [CaffeLayer(name, kind, tuple(blobs), 1e-5) for name, (kind, blobs) in self.layers.items() if blobs]

    def forward(self, image_bgr: np.ndarray) -> np.ndarray:
        """Scores of one image, (3, H, W) BGR in 0 to 255, as Caffe's layers define them."""
        x = self._features(self, image_bgr.astype(np.float64) - np.array(MEAN_BGR)[:, None, None])
        return self._product("classifier", "InnerProduct", x.mean((1, 2)), self._num_classes)

    def unit(self, name: str, x: np.ndarray, width: int, kernel: int, stride: int = 1, groups: int = 1) -> np.ndarray:
        """A convolution without bias, its batch norm and the batch norm's scale."""
        (weight,) = self._blobs(name, "Convolution", (width, len(x) // groups, kernel, kernel))
        mean, variance, factor = self._blobs(f"{name}/bn", "BatchNorm", (width,), (width,), (1,))
        gamma, beta = self._blobs(f"{name}/bn/scale", "Scale", (width,), (width,))
        y = self._convolved(weight, x, stride, groups)
        scale = 0 if factor[0] == 0 else 1 / factor[0]
        column = (slice(None), None, None)
        normal = (y - (mean * scale)[column]) / np.sqrt(variance * scale + 1e-5)[column]
        return gamma[column] * normal + beta[column]

    def gated(self, name: str, x: np.ndarray) -> np.ndarray:
        """A map by its gates; behind them the authors have a layer without weights."""
        gates = np.maximum(self._product(f"{name}_1x1_down", "Convolution", x.mean((1, 2)), len(x) // 16), 0)
        gates = expit(self._product(f"{name}_1x1_up", "Convolution", gates, len(x)))
        self.layers.setdefault(f"{name}_scale", ("Scale", []))
        return gates[:, None, None] * x

    def _convolved(self, weight: np.ndarray, x: np.ndarray, stride: int, groups: int) -> np.ndarray:
        pad = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        seen = sliding_window_view(padded, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
        if self._random is None:
            return np.zeros((len(weight), *seen.shape[1:3]))
        maps = [
            np.tensordot(filters, channels, axes=((1, 2, 3), (0, 3, 4)))
            for filters, channels in zip(np.split(weight, groups), np.split(seen, groups), strict=True)
        ]
        return np.concatenate(maps)

    def _product(self, name: str, kind: str, x: np.ndarray, width: int) -> np.ndarray:
        shape = (width, len(x)) if kind == "InnerProduct" else (width, len(x), 1, 1)
        weight, bias = self._blobs(name, kind, shape, (width,))
        return bias if self._random is None else weight.reshape(width, -1) @ x + bias

    def _blobs(self, name: str, kind: str, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        if name not in self.layers:
            self.layers[name] = (kind, [self._values(kind, place, shape) for place, shape in enumerate(shapes)])
        return [blob.astype(np.float64) if self._random is not None else blob for blob in self.layers[name][1]]

    def _values(self, kind: str, place: int, shape: tuple[int, ...]) -> np.ndarray:
        if self._random is None:
            return np.broadcast_to(np.float32(0), shape)
        factor = 999.982
        if len(shape) > 1:
            values = self._random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif kind == "BatchNorm":
            normal, uniform = self._random.normal(0, 0.1, shape), self._random.uniform(0.5, 1.5, shape)
            values = (normal * factor, uniform * factor, np.array([factor]))[place]
        else:
            is_gamma = (kind, place) == ("Scale", 0)
            values = self._random.uniform(0.5, 1.5, shape) if is_gamma else self._random.normal(0, 0.1, shape)
        return values.astype(np.float32)


Features = Callable[[CaffeNetwork, np.ndarray], np.ndarray]


def residual(
    stem: tuple[int, ...],
    widths: tuple[int, ...],
    counts: tuple[int, ...],
    divisors: tuple[int, int],
    groups: int = 1,
    projection_kernel: int = 1,
) -> Features:
    """SE-ResNet, with its stride in the first 1x1 convolution; with groups SE-ResNeXt and SENet, with it in the 3x3."""

    def features(net: CaffeNetwork, x: np.ndarray) -> np.ndarray:
        for index, width in enumerate(stem, start=1):
            name = "conv1/7x7" if len(stem) == 1 else f"conv1_{index}/3x3"
            kernel, stride = (7 if len(stem) == 1 else 3), (2 if index == 1 else 1)
            x = relu(net.unit(name + ("_s2" if stride == 2 else ""), x, width, kernel, stride))
        x = ceil_max_pool(x)
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=2):
            for name, is_first in ((f"conv{stage}_{number}", number == 1) for number in range(1, count + 1)):
                stride = 2 if stage > 2 and is_first else 1
                strides = (stride, 1) if groups == 1 else (1, stride)
                y = relu(net.unit(f"{name}_1x1_reduce", x, width // divisors[0], 1, strides[0]))
                y = relu(net.unit(f"{name}_3x3", y, width // divisors[1], 3, strides[1], groups))
                y = net.gated(name, net.unit(f"{name}_1x1_increase", y, width, 1))
                if is_first:
                    x = net.unit(f"{name}_1x1_proj", x, width, projection_kernel if stride == 2 else 1, stride)
                x = relu(y + x)
        return x

    return features


Module = tuple[str, int, tuple[int, int], tuple[int, int], str, int]


def se_bn_inception(stem: tuple[int, int, int], *modules: Module) -> Features:
    """Modules: name, width of the 1x1 branch, widths of the others, the kind of pooling and the width behind it."""

    def features(net: CaffeNetwork, x: np.ndarray) -> np.ndarray:
        x = ceil_max_pool(relu(net.unit("conv1/7x7_s2", x, stem[0], 7, 2)))
        x = relu(net.unit("conv2/3x3_reduce", x, stem[1], 1))
        x = ceil_max_pool(relu(net.unit("conv2/3x3", x, stem[2], 3)))
        for letter, ones, threes, doubles, pool, pooled in modules:
            name = f"inception_{letter}"
            stride = 1 if ones else 2
            maps = [relu(net.unit(f"{name}/1x1", x, ones, 1))] if ones else []
            y = relu(net.unit(f"{name}/3x3_reduce", x, threes[0], 1))
            maps.append(relu(net.unit(f"{name}/3x3", y, threes[1], 3, stride)))
            y = relu(net.unit(f"{name}/double3x3_reduce", x, doubles[0], 1))
            y = relu(net.unit(f"{name}/double3x3a", y, doubles[1], 3))
            maps.append(relu(net.unit(f"{name}/double3x3b", y, doubles[1], 3, stride)))
            if stride == 2:
                maps.append(ceil_max_pool(x))
            else:
                y = padded_ave_pool(x) if pool == "ave" else padded_max_pool(x)
                maps.append(relu(net.unit(f"{name}/pool_proj", y, pooled, 1)))
            x = net.gated(name, np.concatenate(maps))
        return x

    return features


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def ceil_max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, no padding; the last window may hang over the edge."""
    grown = np.pad(x, ((0, 0), (0, 2), (0, 2)), constant_values=-np.inf)
    height, width = (int(np.ceil((size - 3) / 2)) + 1 for size in x.shape[1:])
    windows = sliding_window_view(grown, (3, 3), (1, 2))[:, ::2, ::2][:, :height, :width]
    return windows.max((3, 4))


def padded_max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 1, padded by 1."""
    grown = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return sliding_window_view(grown, (3, 3), (1, 2)).max((3, 4))


def padded_ave_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 1, padded by 1; the padding counts."""
    return sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2)).mean((3, 4))


WIDTHS = (256, 512, 1024, 2048)
NETWORKS: dict[str, Features] = {
    "senet_nano": residual((16, 16, 32), (64, 128, 256), (1, 2, 1), (2, 1), 16, 3),
    "se_resnet_nano": residual((16,), (64, 128, 256), (1, 2, 1), (4, 4)),
    "se_bn_inception_nano": se_bn_inception(
        (8, 8, 24),
        ("3a", 8, (8, 8), (8, 12), "ave", 4),
        ("3c", 0, (8, 16), (8, 12), "max", 0),
        ("5b", 32, (24, 40), (24, 28), "max", 16),
    ),
    "senet154": residual((64, 64, 128), WIDTHS, (3, 8, 36, 3), (2, 1), 64, 3),
    "se_resnet50": residual((64,), WIDTHS, (3, 4, 6, 3), (4, 4)),
    "se_resnet101": residual((64,), WIDTHS, (3, 4, 23, 3), (4, 4)),
    "se_resnet152": residual((64,), WIDTHS, (3, 8, 36, 3), (4, 4)),
    "se_resnext50_32x4d": residual((64,), WIDTHS, (3, 4, 6, 3), (2, 2), 32),
    "se_resnext101_32x4d": residual((64,), WIDTHS, (3, 4, 23, 3), (2, 2), 32),
    "se_bn_inception": se_bn_inception(
        (64, 64, 192),
        ("3a", 64, (64, 64), (64, 96), "ave", 32),
        ("3b", 64, (64, 96), (64, 96), "ave", 64),
        ("3c", 0, (128, 160), (64, 96), "max", 0),
        ("4a", 224, (64, 96), (96, 128), "ave", 128),
        ("4b", 192, (96, 128), (96, 128), "ave", 128),
        ("4c", 160, (128, 160), (128, 160), "ave", 128),
        ("4d", 96, (128, 192), (160, 192), "ave", 128),
        ("4e", 0, (128, 192), (192, 256), "max", 0),
        ("5a", 352, (192, 320), (160, 224), "ave", 128),
        ("5b", 352, (192, 320), (192, 224), "max", 128),
    ),
}
"""The seven that the authors published, and small ones of each kind."""
