"""The layouts of files of named tensors, and how to recognise them."""

from __future__ import annotations

import dataclasses
from functools import partial

from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop import naming
from pipeline.interop.naming import Naming
from pipeline.interop.network import Shapes, list_some
from pipeline.models.network import HEAD
from pipeline.networks.layers import layer_table
from pipeline.networks.registry import NETWORKS

ANCHORS = (
    "layer1.0.conv1.weight",
    "conv2d_1a.conv.weight",
    "conv1_7x7_s2.weight",
    "features.0.weight",
    f"{HEAD}.weight",
)
"""Each file of a known layout has one of these tensors, behind the prefix of all."""
CLASSIFIERS = ("fc", HEAD)
"""Cadene's first upload called the classifier `fc`; its copies of torchvision's networks call it `last_linear`."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a software names and stores the tensors of some networks, and what else its networks do differently."""

    name: str
    networks: tuple[str, ...]
    naming: Naming
    preprocessing: Preprocessing | None
    """Used unless the file says otherwise; None if the recipe's applies. Its max-pool is the network's."""
    stride_in_3x3: bool = False
    """Of a ResNet: see `model.stride_in_3x3`."""
    is_bgr: bool = False
    """Whether the first convolution's input channels are in that order."""
    has_conv_biases: bool = False
    """Whether convolutions that a batch norm follows have a bias."""
    has_conv_fc: bool = False
    """Whether fully connected layers but the classifier are convolutions over the whole map."""
    has_background: bool = False
    """Whether 1001 classes are ImageNet's behind one for the background, as TensorFlow's networks had it."""
    obstacle: str = ""
    """Why its weights cannot be converted."""

    def has(self, shapes: Shapes, network: str) -> bool:
        """Return whether the first convolution is named so."""
        return f"{next(iter(self.naming(layer_table(network)).values()))}.weight" in shapes

    def has_classifier(self, shapes: Shapes, network: str) -> bool:
        """Return whether the classifier is named so; the two common names stand for each other."""
        name = self.naming(layer_table(network)).get(HEAD, "")
        return any(f"{each}.weight" in shapes for each in (CLASSIFIERS if name in CLASSIFIERS else (name,)))

    def missing(self, shapes: Shapes, network: str) -> str:
        """Return the name of the tensor that tells that these are not of this layout."""
        names = self.naming(layer_table(network))
        return f"{names[HEAD] if self.has(shapes, network) else next(iter(names.values()))}.weight"

    def describe(self) -> str:
        """Return in words what it takes a network of ambiguous names for."""
        stride = f"stride in the {'3x3' if self.stride_in_3x3 else 'first 1x1'} convolution; "
        assert self.preprocessing is not None
        return f"--layout {self.name}: {stride}{self.preprocessing.sentence()}"

    def entries(self, network: str) -> dict[str, str]:
        """Return the metadata that describe a network of these weights."""
        has_choice = NETWORKS[network].numbers.get("stride_in") == "1x1"
        return {"model": network, **({"stride_in_3x3": "true"} if has_choice and self.stride_in_3x3 else {})}


_RGB = partial(Preprocessing, IMAGENET_MEAN, IMAGENET_STD)
_HALF = (127.5, 127.5, 127.5)
SENETS = (
    "senet154",
    "senet_nano",
    *("se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d", "se_resnet_nano"),
)
"""The residual networks that the paper's authors published, and small ones of their kinds."""
_RESNETS = ("resnet50", "resnet101", "resnet152", "resnet_nano")
_BN_INCEPTION = ("bn_inception", "bn_inception_nano")
_INCEPTION_RESNET = ("inception_resnet_v2", "inception_resnet_nano")
_VGG = ("vgg16_bn", "vgg_nano")

LAYOUTS = (
    Layout("cadene", SENETS, naming.same, _RGB("bilinear_antialias")),
    Layout("cadene", ("resnext101_32x4d",), naming.lua_resnext, _RGB("bilinear_antialias", "padded")),
    Layout(
        "cadene",
        _BN_INCEPTION,
        naming.bn_inception,
        Preprocessing((128.0, 117.0, 104.0), (1.0, 1.0, 1.0), "bilinear_antialias"),
        is_bgr=True,
        has_conv_biases=True,
    ),
    Layout(
        "cadene",
        _INCEPTION_RESNET,
        naming.same,
        Preprocessing(_HALF, _HALF, "bilinear_antialias"),
        has_background=True,
    ),
    Layout(
        "cadene",
        _VGG,
        naming.vgg("_features", "linear0", "linear1", HEAD),
        _RGB("bilinear_antialias"),
        has_conv_biases=True,
    ),
    Layout(
        "cafferesnet",
        _RESNETS,
        naming.resnet(HEAD),
        Preprocessing((122.7717, 115.9465, 102.9801), (1.0, 1.0, 1.0), "bilinear_antialias"),
        is_bgr=True,
    ),
    Layout(
        "timm",
        (*SENETS, *_RESNETS, "resnext50_32x4d", "resnext101_32x4d"),
        naming.resnet("fc"),
        _RGB("bicubic_antialias", "padded"),
        stride_in_3x3=True,
    ),
    Layout(
        "timm",
        _INCEPTION_RESNET,
        naming.with_classifier("classif"),
        Preprocessing(_HALF, _HALF, "bicubic_antialias"),
    ),
    Layout(
        "timm",
        _VGG,
        naming.vgg("features", "pre_logits.fc1", "pre_logits.fc2", "head.fc"),
        _RGB("bilinear_antialias"),
        has_conv_biases=True,
        has_conv_fc=True,
    ),
    Layout(
        "timm",
        ("mobilenet_v1", "mobilenet_nano"),
        lambda layers: {"conv1.conv": "conv_stem"},
        None,
        obstacle="timm's mobilenetv1_100, which has ReLU6 where mobilenet_v1 has ReLU, and so is another network",
    ),
    Layout(
        "torchvision",
        (*_RESNETS, "resnext50_32x4d"),
        naming.resnet("fc"),
        _RGB("bilinear_antialias", "padded"),
        stride_in_3x3=True,
    ),
    Layout(
        "torchvision",
        _VGG,
        naming.vgg("features", "classifier.0", "classifier.3", "classifier.6"),
        _RGB("bilinear_antialias"),
        has_conv_biases=True,
    ),
    # A network trained with this project takes the preprocessing of its recipe.
    Layout("ours", tuple(NETWORKS), naming.same, None),
)


def layouts_of(network: str) -> dict[str, Layout]:
    """Return the layouts of files with weights of a network, by name."""
    return {layout.name: layout for layout in LAYOUTS if network in layout.networks}


def shares_our_names(network: str) -> bool:
    """Return whether Cadene's file of a network has the names of ours."""
    cadene = layouts_of(network).get("cadene")
    return cadene is not None and cadene.naming is naming.same


def choose_layout(network: str, shapes: Shapes, is_ours: bool, forced: str | None, place: str) -> Layout:
    """Return the layout of a network's tensors.

    `is_ours` decides between this project and Cadene's ports that share its names. Raises UserError if it is unknown,
    if the tensors are not named as in the layout `forced`, or if several networks have them so and none is `forced`.
    """
    known = layouts_of(network)
    fitting = {name: layout for name, layout in known.items() if layout.has(shapes, network)}
    told = {name: layout for name, layout in fitting.items() if layout.has_classifier(shapes, network)}
    fitting = told or fitting
    if forced not in ("ours", "cadene") and {"ours", "cadene"} <= fitting.keys():
        del fitting["cadene" if is_ours else "ours"]
    if forced is not None and forced not in fitting:
        missing = known[forced].missing(shapes, network) if forced in known else None
        reason = f"no tensor {missing}" if missing else f"it is a file of named tensors, no {forced} file"
        seen = f"; its names are those of --layout {' and '.join(fitting)}" if fitting else ""
        raise UserError(f"{place}: not of --layout {forced}: {reason}; {list_some(shapes)}{seen}")
    if not fitting:
        raise UserError(
            f"{place}: has the convolutions of {network}, but names of no known layout; {list_some(shapes)}"
        )
    if forced is None and len(fitting) > 1:
        raise UserError(
            "\n  ".join(
                [
                    f"{place}: several networks name their tensors like this {network}, and nothing in it says which "
                    "it is; say so with one of",
                    *(layout.describe() for layout in fitting.values()),
                ]
            )
        )
    layout = fitting[forced] if forced else next(iter(fitting.values()))
    if layout.obstacle:
        raise UserError(f"{place}: {layout.obstacle}")
    return layout
