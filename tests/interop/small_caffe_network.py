"""The small network as the authors would have it in Caffe: its file, and its forward pass from the file's numbers.

Written from the layers' definitions in Caffe and the prototxt's naming, in NumPy and float64, with nothing of ours but
the protobuf schema.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

from pipeline.interop.caffemodel import message_class

STEM = (("conv1_1/3x3_s2", 3, 16, 2), ("conv1_2/3x3", 16, 16, 1), ("conv1_3/3x3", 16, 32, 1))
# Block, input channels, width, stride; 16 groups, and a sixteenth of the width between the gate's layers.
BLOCKS = (("conv2_1", 32, 64, 1), ("conv3_1", 64, 128, 2), ("conv3_2", 128, 128, 1), ("conv4_1", 128, 256, 2))
GROUPS = 16
MEAN_BGR = (104.0, 117.0, 123.0)


class CaffeNetwork:
    """Layers with random blobs, by name, in the order of a prototxt."""

    def __init__(self, num_classes: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.layers: dict[str, tuple[str, list[np.ndarray]]] = {}
        for name, channels, width, _ in STEM:
            self._conv(name, (width, channels, 3, 3))
        for name, channels, width, stride in BLOCKS:
            self._conv(f"{name}_1x1_reduce", (width // 2, channels, 1, 1))
            self._conv(f"{name}_3x3", (width, width // 2 // GROUPS, 3, 3))
            self._conv(f"{name}_1x1_increase", (width, width, 1, 1))
            self._biased(f"{name}_1x1_down", "Convolution", (width // 16, width, 1, 1))
            self._biased(f"{name}_1x1_up", "Convolution", (width, width // 16, 1, 1))
            if channels != width:
                kernel = 3 if stride == 2 else 1
                self._conv(f"{name}_1x1_proj", (width, channels, kernel, kernel))
        self._biased("classifier", "InnerProduct", (num_classes, 256))
        # Caffe takes a factor of 0 as an empty average.
        self.layers["conv3_2_3x3/bn"][1][2][:] = 0

    def _weights(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    def _biased(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
        bias = self._random.normal(0, 0.1, shape[0]).astype(np.float32)
        self.layers[name] = (kind, [self._weights(shape), bias])

    def _conv(self, name: str, shape: tuple[int, ...]) -> None:
        self.layers[name] = ("Convolution", [self._weights(shape)])
        width, factor = shape[0], 999.982
        mean, beta = self._random.normal(0, 0.1, (2, width))
        variance, gamma = self._random.uniform(0.5, 1.5, (2, width))
        sums = [mean * factor, variance * factor, np.array([factor])]
        self.layers[f"{name}/bn"] = ("BatchNorm", [values.astype(np.float32) for values in sums])
        self.layers[f"{name}/bn/scale"] = ("Scale", [values.astype(np.float32) for values in (gamma, beta)])

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
        for name, *_ in BLOCKS:
            net.layer.add(name=name, type="Axpy")
        return net

    def save(self, path: Path, **form: bool) -> Path:
        path.write_bytes(self.message(**form).SerializeToString())
        return path

    def forward(self, image_bgr: np.ndarray) -> np.ndarray:
        """Scores of one image, (3, H, W) BGR in 0 to 255, as Caffe's layers define them."""
        x = image_bgr.astype(np.float64) - np.array(MEAN_BGR)[:, None, None]
        for name, _, _, stride in STEM:
            x = np.maximum(self._normalised(name, self._convolved(name, x, stride)), 0)
        x = ceil_max_pool(x)
        for name, channels, width, stride in BLOCKS:
            shortcut = x
            if channels != width:
                shortcut = self._normalised(f"{name}_1x1_proj", self._convolved(f"{name}_1x1_proj", x, stride))
            y = np.maximum(self._normalised(f"{name}_1x1_reduce", self._convolved(f"{name}_1x1_reduce", x, 1)), 0)
            y = np.maximum(self._normalised(f"{name}_3x3", self._convolved(f"{name}_3x3", y, stride, GROUPS)), 0)
            y = self._normalised(f"{name}_1x1_increase", self._convolved(f"{name}_1x1_increase", y, 1))
            gate = np.maximum(self._product(f"{name}_1x1_down", y.mean((1, 2))), 0)
            gate = expit(self._product(f"{name}_1x1_up", gate))
            # Axpy: a channel's factor, times the block's output, plus the shortcut.
            x = np.maximum(gate[:, None, None] * y + shortcut, 0)
        return self._product("classifier", x.mean((1, 2)))

    def _convolved(self, name: str, x: np.ndarray, stride: int, groups: int = 1) -> np.ndarray:
        weight = self.layers[name][1][0].astype(np.float64)
        pad = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        seen = sliding_window_view(padded, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
        maps = [
            np.tensordot(filters, channels, axes=((1, 2, 3), (0, 3, 4)))
            for filters, channels in zip(np.split(weight, groups), np.split(seen, groups), strict=True)
        ]
        return np.concatenate(maps)

    def _normalised(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, variance, factor = (blob.astype(np.float64) for blob in self.layers[f"{name}/bn"][1])
        gamma, beta = (blob.astype(np.float64) for blob in self.layers[f"{name}/bn/scale"][1])
        scale = 0 if factor[0] == 0 else 1 / factor[0]
        column = (slice(None), None, None)
        normal = (x - (mean * scale)[column]) / np.sqrt(variance * scale + 1e-5)[column]
        return gamma[column] * normal + beta[column]

    def _product(self, name: str, x: np.ndarray) -> np.ndarray:
        weight, bias = self.layers[name][1]
        return weight.reshape(len(weight), -1).astype(np.float64) @ x + bias


def ceil_max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, no padding; the last window may hang over the edge."""
    grown = np.pad(x, ((0, 0), (0, 2), (0, 2)), constant_values=-np.inf)
    height, width = (int(np.ceil((size - 3) / 2)) + 1 for size in x.shape[1:])
    windows = sliding_window_view(grown, (3, 3), (1, 2))[:, ::2, ::2][:, :height, :width]
    return windows.max((3, 4))
