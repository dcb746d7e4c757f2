"""The arguments of `weights import` and `weights export`. Imports no torch."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path

_NAMED = {
    "cadene": "pretrainedmodels: senet154, se_resnet50 to 152, se_resnext50 and 101, resnext101_32x4d, bninception, "
    "inceptionresnetv2, vgg16_bn; and timm's legacy_ networks, which have the same names",
    "cafferesnet": "pretrainedmodels' cafferesnet101 and the like: stride in the first 1x1 convolution, images BGR",
    "timm": "timm: senet154 (senet154.gluon_in1k), seresnet50 to 152, seresnext, resnet50 to 152, resnext, "
    "inception_resnet_v2, vgg16_bn",
    "torchvision": "torchvision: resnet50 to 152, resnext50_32x4d, vgg16_bn",
}
_CAFFE = "the authors' .caffemodel: SENet, SE-ResNet-50 to 152, SE-ResNeXt-50 and 101, SE-BN-Inception"
IMPORT_LAYOUTS = {
    **_NAMED,
    "caffe": _CAFFE,
    "ours": "weights of this project as .pth; the recipe that evaluates them says how images are prepared",
}
EXPORT_LAYOUTS = {
    **_NAMED,
    "caffe": _CAFFE,
    "onnx": "an ONNX graph, .onnx; batch, height and width are free (multiples of 32 for BN-Inception), but for a VGG",
}


def add_actions(parser: argparse.ArgumentParser) -> None:
    """Add the two actions to a parser; `arguments.action` is import or export."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="{import,export}")
    importing = _action(
        actions, "import", "make a weight file of ours from somebody's; nothing in it is run", IMPORT_LAYOUTS
    )
    importing.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a .pth, .safetensors or .caffemodel; or timm:NAME, through timm",
    )
    importing.add_argument("out", type=Path, metavar="OUT.safetensors", help="for evaluate.weights; must not exist")
    importing.add_argument("--layout", choices=IMPORT_LAYOUTS, help="insist on one (default: told from the content)")
    importing.add_argument("--entry", metavar="NAME", help="which network, of a checkpoint that holds several")
    exporting = _action(actions, "export", "make a file for other software from a weight file of ours", EXPORT_LAYOUTS)
    exporting.add_argument("file", type=Path, metavar="FILE.safetensors", help="as train and `weights import` leave it")
    exporting.add_argument(
        "out", type=Path, metavar="OUT", help="a .pth, .safetensors, .caffemodel or .onnx; must not exist"
    )
    exporting.add_argument("--layout", choices=EXPORT_LAYOUTS, required=True, help="what to make")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str, layouts: Mapping[str, str]
) -> argparse.ArgumentParser:
    lines = "\n".join(
        textwrap.fill(text, 110, initial_indent=f"  {layout:<12}", subsequent_indent=" " * 14)
        for layout, text in layouts.items()
    )
    return actions.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=f"layouts:\n{lines}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
