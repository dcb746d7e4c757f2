"""Gates of squeeze-and-excitation blocks over labelled images: mean and deviation for each class and channel.

They are added up as integers, so that neither the order of the images nor the number of processes changes a bit.

Letters in shapes: N images, K classes with images, C channels of a block.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.models.network import Network
from pipeline.models.se import SEModule

Array = npt.NDArray[np.float32]
NEAR = 0.05
"""A gate that is at most so far from 0 or 1 is nearly 0 or 1."""
_BINARY_PLACES = {"Sigmoid": 40, "Tanh": 40, "ReLU": 20}
"""Of each gate and its square, by the function that gates end with."""
_LARGEST = {40: 1.0, 20: 1024.0}
"""Sums of so large gates over 4 million images fit into 64 bits, by the number of binary places."""


@dataclasses.dataclass(frozen=True)
class BlockGates:
    """The gates of one block."""

    label: str
    """The paper's name: SE_5_2 is the second block of stage 5."""
    module: str
    """Name in the network."""
    stage: int
    parameters: int
    mean_KC: Array
    std_KC: Array
    mean_C: Array
    """Over all images."""
    std_C: Array
    nearly_0_percent: float
    """Share of all gates of all images."""
    nearly_1_percent: float

    def arrays(self) -> dict[str, Array]:
        """Return the arrays under the names that they are saved by."""
        names = {"mean": self.mean_KC, "std": self.std_KC, "mean_of_all": self.mean_C, "std_of_all": self.std_C}
        return {f"{self.label}/{name}": array for name, array in names.items()}

    def summary(self) -> dict[str, Any]:
        """Return names and figures as plain values, with how far classes and images of a class lie apart: standard
        deviations, averaged over the channels (and classes)."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: value for name, value in fields.items() if not isinstance(value, np.ndarray)}
        spreads = {"between_classes": self.mean_KC.astype(np.float64).std(0), "within_classes": self.std_KC}
        return {
            **plain,
            "channels": len(self.mean_C),
            **{name: float(array.mean(dtype=np.float64)) for name, array in spreads.items()},
        }


def labels_of(model: Network) -> dict[str, str]:
    """Return the paper's name of each block by its name in the network."""
    count: dict[int, Iterator[int]] = {}
    return {
        name: f"SE_{module.stage}_{next(count.setdefault(module.stage, itertools.count(1)))}"
        for name, module in model.se_modules().items()
    }


class GateSums:
    """Sums of a network's gates, which it adds to while the network works on images of `labels`."""

    def __init__(self, model: Network, num_classes: int, device: torch.device) -> None:
        self.labels: torch.Tensor
        """The labels of the next batch, on the device."""
        self._model = model
        self._modules = model.se_modules()
        self._sums = {
            name: torch.zeros(2, num_classes, module.channels, dtype=torch.int64, device=device)
            for name, module in self._modules.items()
        }
        """Of the gates and of their squares."""
        self._near = {name: torch.zeros(2, dtype=torch.int64, device=device) for name in self._modules}
        self._largest = dict.fromkeys(self._modules, torch.zeros((), device=device))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Add up the gates of every forward pass."""
        with contextlib.ExitStack() as stack:
            for name, module in self._modules.items():
                hook = module.register_forward_hook(lambda _, __, gates, name=name: self._add(name, gates))
                stack.callback(hook.remove)
            yield

    def _add(self, name: str, gates: torch.Tensor) -> None:
        # Without a squeeze each position has gates of its own, and a channel's is their mean.
        gates_NC = gates.mean((2, 3), dtype=torch.float64)
        scale = 2.0 ** _places(self._modules[name])
        for sums, values in zip(self._sums[name], (gates_NC, gates_NC.square()), strict=True):
            sums.index_add_(0, self.labels, values.mul(scale).round().long())
        self._near[name] += torch.stack([(gates_NC.abs() <= NEAR).sum(), ((gates_NC - 1).abs() <= NEAR).sum()])
        self._largest[name] = torch.maximum(self._largest[name], gates_NC.abs().amax())

    def collect(self, collective: Collective, images_K: npt.NDArray[np.int64]) -> dict[str, BlockGates]:
        """Return the gates of all blocks, over the ranks; all of them call it. `images_K` are the images of each class.

        Classes without images have no row. Raises UserError if a gate is no number or too large to be added up.
        """
        found = {}
        for name, label in labels_of(self._model).items():
            module, places = self._modules[name], _places(self._modules[name])
            is_small = bool(self._largest[name] <= _LARGEST[places])
            if collective.any(not is_small):
                raise UserError(
                    f"the gates of {label} ({name}) are NaN, infinite or larger than {_LARGEST[places]:g}: an "
                    "activation overflows in execution.precision, or the weights are no trained network's"
                )
            sums, near = self._sums.pop(name).cpu(), self._near[name].cpu()
            collective.add_up(sums)
            collective.add_up(near)
            present, all_images = images_K > 0, images_K.sum()
            by_class = _moments(sums.numpy()[:, present], places, images_K[present, None])
            of_all = _moments(sums.sum(1).numpy(), places, all_images)
            low, high = (100.0 * int(count) / (int(all_images) * module.channels) for count in near)
            parameters = sum(parameter.numel() for parameter in module.parameters())
            found[name] = BlockGates(label, name, module.stage, parameters, *by_class, *of_all, low, high)
        return found


@contextlib.contextmanager
def fixed_gates(model: Network, means: Mapping[str, Array]) -> Iterator[None]:
    """Give blocks the same gates for every image: what they do then, a convolution's weights could do."""
    with contextlib.ExitStack() as stack:
        for name, mean_C in means.items():
            constant = torch.from_numpy(mean_C)[None, :, None, None]
            hook = model.get_submodule(name).register_forward_hook(
                lambda _, __, gates, constant=constant: constant.to(gates).expand_as(gates)
            )
            stack.callback(hook.remove)
        yield


def _places(module: SEModule) -> int:
    return _BINARY_PLACES[type(module.excitation).__name__]


def _moments(sums: npt.NDArray[np.int64], places: int, images: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Return mean and standard deviation by the sums of values and of squares, of so many binary places."""
    mean, mean_square = sums / 2.0**places / images
    return mean.astype(np.float32), np.sqrt(np.maximum(mean_square - mean**2, 0.0)).astype(np.float32)
