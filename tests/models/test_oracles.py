"""Outputs and gradients of every network for which an independent implementation exists, with the same weights."""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import create_model
from pipeline.networks.registry import NETWORKS
from tests.interop.random_weights import randomise, relative_error

pytestmark = pytest.mark.slow


def from_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, drop_rate=0.0)


def from_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module("torchvision.models"), name)(**options)


def replaced(network: nn.Module, is_meant: Callable[[nn.Module], bool], make: Callable[[], nn.Module]) -> nn.Module:
    """The network with others in place of some modules, none of which has tensors."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if is_meant(child):
                setattr(parent, name, make())
    return network


def timm_mobilenet() -> nn.Module:
    """With ReLU: ReLU6 came with TensorFlow's code and not with the paper."""
    return replaced(from_timm("mobilenetv1_100")(), lambda module: isinstance(module, nn.ReLU6), nn.ReLU)


def with_global_pooling(network: nn.Module) -> nn.Module:
    """With the whole map averaged, not a window of 7x7 or 8x8, which is the same at the network's size."""

    def is_meant(module: nn.Module) -> bool:
        return isinstance(module, nn.AvgPool2d) and module.kernel_size in (7, (7, 7), 8)

    return replaced(network, is_meant, lambda: nn.AdaptiveAvgPool2d(1))


def cadene_bn_inception() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        package: Any = pytest.importorskip("pretrainedmodels")
    network: nn.Module = package.bninception(pretrained=None)
    return with_global_pooling(without_biases(network))


def without_biases(network: nn.Module) -> nn.Module:
    """The same network without biases, which our convolutions lack before a batch norm."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return network


def osmr_shufflenet() -> nn.Module:
    models: Any = pytest.importorskip("pytorchcv.models.shufflenet")
    network: Any = models.shufflenet_g3_w1(pretrained=False)
    for unit in network.modules():
        if isinstance(unit, models.ShuffleUnit) and unit.downsample:
            unit.forward = lambda x, unit=unit: _pooled_first(unit, x)
    return with_global_pooling(network)


def _pooled_first(unit: Any, x: torch.Tensor) -> torch.Tensor:
    """The shortcut's channels in front, as in the authors' code; pytorchcv has them behind."""
    y = unit.activ(unit.compress_bn1(unit.compress_conv1(x)))
    y = unit.dw_bn2(unit.dw_conv2(unit.c_shuffle(y)))
    y = unit.expand_bn3(unit.expand_conv3(y))
    return unit.activ(torch.cat((unit.avgpool(x), y), 1))


def osmr_cifar(module: str, **numbers: Any) -> Callable[[], nn.Module]:
    """With the stride in the first convolution, as the authors have it, also where there are three."""

    def make() -> nn.Module:
        models: Any = pytest.importorskip(f"pytorchcv.models.{module}")
        network = with_global_pooling(getattr(models, f"get_{module}")(num_classes=CIFAR_CLASSES, **numbers))
        unit: Any
        for unit in network.modules():
            if hasattr(unit, "conv3"):
                unit.conv1.conv.stride, unit.conv2.conv.stride = unit.conv2.conv.stride, unit.conv1.conv.stride
        return network

    return make


class LuaUnit(nn.Module):
    """xgastaldi/shake-shake, models/shakeshakeblock.lua; pytorchcv has a ReLU behind the sum, and the identity so."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        sizes = ((inner, outer, 3, stride, 1), (outer, outer, 3, 1, 1))
        parts = [(nn.ReLU(), nn.Conv2d(*size, bias=False), nn.BatchNorm2d(outer)) for _ in range(2) for size in sizes]
        self.branches = nn.ModuleList(nn.Sequential(*first, *second) for first, second in (parts[:2], parts[2:]))
        self.stride, halves = stride, 2 if inner != outer else 0
        self.paths = nn.ModuleList(nn.Conv2d(inner, outer // 2, 1, bias=False) for _ in range(halves))
        self.norm = nn.BatchNorm2d(outer) if halves else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = sum(0.5 * branch(x) for branch in self.branches)
        if self.norm is None:
            return x + y
        maps = x.relu(), nn.functional.pad(x.relu(), (1, 0, 1, 0))[:, :, :-1, :-1]
        halves = [path(one[:, :, :: self.stride, :: self.stride]) for path, one in zip(self.paths, maps, strict=True)]
        return y + self.norm(torch.cat(halves, 1))


class ResNeXtUnit(nn.Module):
    """facebookresearch/ResNeXt, models/resnext.lua, with two branches."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()

        def conv(channels: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
            return (
                nn.Conv2d(channels, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(outer),
            )

        self.branches = nn.ModuleList(
            nn.Sequential(*conv(inner, 1), nn.ReLU(), *conv(outer, 3, stride, groups=4), nn.ReLU(), *conv(outer, 1))
            for _ in range(2)
        )
        self.shortcut = nn.Sequential(*(conv(inner, 1, stride) if inner != outer else ()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.shortcut(x) + sum(0.5 * branch(x) for branch in self.branches)).relu()


def shaken(unit: type[nn.Module], blocks: int, stem: tuple[nn.Module, ...], *widths: int) -> Callable[[], nn.Module]:
    """A network of these units; the last ReLU changes nothing where they end with one."""

    def make() -> nn.Module:
        units = []
        for stage, (inner, outer) in enumerate(itertools.pairwise(widths)):
            stride = 2 if stage > 0 else 1
            units += [unit(inner, outer, stride), *(unit(outer, outer, 1) for _ in range(1, blocks))]
        first = nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        end = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CIFAR_CLASSES)
        return nn.Sequential(*first, *stem, *units, *end)

    return make


CIFAR_CLASSES = 10
V1_5: dict[str, Any] = {"stride_in_3x3": True, "max_pool": "padded"}
ORACLES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "se_resnet50": (from_timm("legacy_seresnet50"), {}),
    "se_resnet101": (from_timm("legacy_seresnet101"), {}),
    "se_resnet152": (from_timm("legacy_seresnet152"), {}),
    "se_resnext50_32x4d": (from_timm("legacy_seresnext50_32x4d"), {}),
    "se_resnext101_32x4d": (from_timm("legacy_seresnext101_32x4d"), {}),
    "resnet50": (from_torchvision("resnet50"), V1_5),
    "resnet101": (from_torchvision("resnet101"), V1_5),
    "resnet152": (from_torchvision("resnet152"), V1_5),
    "resnext50_32x4d": (from_torchvision("resnext50_32x4d"), {"max_pool": "padded"}),
    "resnext101_32x4d": (from_timm("resnext101_32x4d"), {"max_pool": "padded"}),
    "bn_inception": (cadene_bn_inception, {}),
    "inception_resnet_v2": (from_timm("inception_resnet_v2"), {"dropout": 0.0}),
    "vgg16_bn": (lambda: without_biases(from_torchvision("vgg16_bn", dropout=0.0)()), {"dropout": 0.0}),
    "mobilenet_v1": (timm_mobilenet, {}),
    "shufflenet_v1_g3": (osmr_shufflenet, {}),
    "preresnet110": (osmr_cifar("preresnet_cifar", blocks=110, bottleneck=False), {}),
    "preresnet164": (osmr_cifar("preresnet_cifar", blocks=164, bottleneck=True), {}),
    "wrn16_8": (osmr_cifar("wrn_cifar", blocks=16, width_factor=8), {}),
    "shake_shake26_2x96d": (shaken(LuaUnit, 4, (), 16, 96, 192, 384), {}),
    "shake_even29_2x4x64d": (shaken(ResNeXtUnit, 3, (nn.ReLU(),), 64, 256, 512, 1024), {}),
}
WITH_GRADIENTS = (
    "se_resnet50",
    "bn_inception",
    "inception_resnet_v2",
    "vgg16_bn",
    "mobilenet_v1",
    "shufflenet_v1_g3",
    "wrn16_8",
    "shake_shake26_2x96d",
    "shake_even29_2x4x64d",
)
"""One of each family, and both of the last."""


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same tensors, which both register in the order of computation."""
    make, options = ORACLES[name]
    with torch.device("meta"):
        num_classes = CIFAR_CLASSES if NETWORKS[name].image_size_px == 32 else 1000
        theirs, ours = make(), create_model(name, num_classes, **options)
    for network in (theirs, ours):
        network.to_empty(device="cpu")
    randomise(theirs.state_dict(), seed=5)
    tensors = list(theirs.state_dict().values())
    names = list(ours.state_dict())
    assert len(names) == len(tensors)
    ours.load_state_dict(dict(zip(names, tensors, strict=True)))
    return ours, theirs


@pytest.mark.parametrize("name", ORACLES)
def test_outputs_and_gradients_are_those_of_an_independent_implementation(name: str) -> None:
    ours, theirs = both(name)
    # At 96 px the last map of this one is a single pixel, of which no batch norm has statistics.
    size = 160 if name == "inception_resnet_v2" else 32 if name.startswith("shake") else 96
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert relative_error(ours.eval()(images), theirs.eval()(images)) < 1e-4
    if name not in WITH_GRADIENTS:
        return
    # In float64, since in float32 roundings move ReLUs of so deep a network over their kinks.
    for network in (ours.double().train(), theirs.double().train()):
        nn.functional.cross_entropy(network(images.double()), torch.tensor([3, 5])).backward()
    gradients = {
        key: (own.grad, other.grad)
        for (key, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True)
        if own.grad is not None and other.grad is not None
    }
    assert len(gradients) == len(list(ours.parameters()))
    # What a batch norm takes away again, as a bias, has a gradient of nothing but rounding.
    smallest = 1e-6 * max(float(expected.abs().max()) for _, expected in gradients.values())
    errors = {
        key: float((found - expected).abs().max()) / max(float(expected.abs().max()), smallest)
        for key, (found, expected) in gradients.items()
    }
    worst = max(errors, key=lambda key: errors[key])
    assert errors[worst] < 1e-6, (worst, errors[worst])
    statistics = zip(ours.named_buffers(), theirs.buffers(), strict=True)
    for (key, found), expected in statistics:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=key)
