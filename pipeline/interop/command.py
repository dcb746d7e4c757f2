"""The arguments of `weights import` and `weights export`. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

_CADENE = "Cadene's pretrainedmodels and timm's legacy_senet154, .pth or .safetensors"
_GLUON = "timm's senet154 (senet154.gluon_in1k), .pth or .safetensors"
IMPORT_LAYOUTS = {
    "cadene": _CADENE,
    "gluon": _GLUON,
    "caffe": "the authors' SENet.caffemodel",
    "ours": "weights of this project as .pth; the recipe that evaluates them says how images are prepared",
}
EXPORT_LAYOUTS = {
    "cadene": _CADENE,
    "gluon": _GLUON,
    "onnx": "an ONNX graph, .onnx; batch, height and width are free",
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
        help="a .pth, .safetensors or .caffemodel; or timm:legacy_senet154, through timm",
    )
    importing.add_argument("out", type=Path, metavar="OUT.safetensors", help="for evaluate.weights; must not exist")
    importing.add_argument("--layout", choices=IMPORT_LAYOUTS, help="insist on one (default: told from the content)")
    importing.add_argument("--entry", metavar="NAME", help="which network, of a checkpoint that holds several")
    exporting = _action(actions, "export", "make a file for other software from a weight file of ours", EXPORT_LAYOUTS)
    exporting.add_argument("file", type=Path, metavar="FILE.safetensors", help="as train and `weights import` leave it")
    exporting.add_argument("out", type=Path, metavar="OUT", help="a .pth, .safetensors or .onnx; must not exist")
    exporting.add_argument("--layout", choices=EXPORT_LAYOUTS, required=True, help="what to make")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str, layouts: Mapping[str, str]
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  {layout:<8}{text}" for layout, text in layouts.items())
    return actions.add_parser(
        name,
        help=purpose,
        description=purpose,
        epilog=f"layouts:\n{lines}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
