"""`python -m pipeline.interop import|export`, started by `launch weights`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.data.preprocessing import Preprocessing
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.printing import print_line
from pipeline.ground.stop import stop_with_parent
from pipeline.interop.command import add_actions
from pipeline.interop.exporting import export_weights
from pipeline.interop.importing import Imported, import_weights
from pipeline.interop.layout import layouts_of, shares_our_names
from pipeline.paper.statements import row_of
from pipeline.store.answer import answered

_PADDED = (
    "its max-pool is padded, and so lies one pixel off the authors'; evaluate pools these weights so too, as for the "
    "published figures"
)

_USUAL_CROP_PX = 224


def main(argv: Sequence[str] | None = None) -> int:
    """Import or export, and print what was found. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.interop", description="Convert weight files.")
    add_actions(parser)
    arguments = parser.parse_args(argv)
    stop_with_parent()
    return answered(lambda: _convert(arguments))


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.action == "import":
        imported = import_weights(arguments.file, arguments.out, arguments.layout, arguments.entry)
        lines = [*_describe(imported), *_notes_on_import(imported)]
    else:
        exported = export_weights(arguments.file, arguments.out, arguments.layout)
        lines = [*_describe(exported), *_notes_on_export(exported, arguments.layout)]
    print_line("\n  ".join([str(arguments.file), *lines]))
    print_line(f"written: {arguments.out} ({arguments.out.stat().st_size / 1e6:,.1f} MB)")
    return EXIT_DONE


def _describe(imported: Imported) -> list[str]:
    parameters = sum(
        tensor.numel()
        for name, tensor in imported.tensors.items()
        if tensor.is_floating_point() and ".running_" not in name
    )
    images = imported.preprocessing.sentence() if imported.preprocessing else "as the recipe says (the file does not)"
    return [
        f"layout   {imported.layout}",
        f"network  {imported.network.title}, {imported.network.num_classes:,} classes, {parameters:,} parameters",
        f"images   {images}",
        f"source   {imported.source}" if imported.source else f"SHA-256  {imported.sha256}",
        *(f"note     {note}" for note in imported.notes),
    ]


def _notes_on_import(imported: Imported) -> list[str]:
    lines = []
    if known := imported.published():
        lines.append(
            f"known    {known.file}; {known.publisher} {known.top1_error_percent:g} / "
            f"{known.top5_error_percent:g} % top-1 / top-5 error with {known.plan.name}"
        )
    if imported.layout == "caffe" and imported.network.num_classes == 1000:
        lines.append("note     1000 classes, taken for the devkit's order and put into that of the sorted WordNet ids")
    elif imported.layout == "caffe":
        lines.append("note     not 1000 classes, so their order is kept")
    if (
        imported.layout == "cadene"
        and known is None
        and not imported.source
        and shares_our_names(imported.network.name)
    ):
        lines.append(
            "note     these names are Cadene's and this project's own; for weights of this project say --layout ours"
        )
    if _is_padded(imported.preprocessing):
        lines.append(f"note     {_PADDED}")
    row = row_of(imported.network.name)
    if row and row.crop and row.crop[1] != _USUAL_CROP_PX:
        resize_px, crop_px = row.crop
        lines.append(
            f"note     the paper evaluates it with {{resize_px: {resize_px}, crop_px: {crop_px}}}, as a crop plan"
        )
    return lines


def _notes_on_export(exported: Imported, layout: str) -> list[str]:
    if layout == "onnx":
        return []
    lines = []
    own, theirs = exported.preprocessing, layouts_of(exported.network.name).get(layout)
    is_padded = _is_padded(own)
    if is_padded != (theirs is not None and _is_padded(theirs.preprocessing)):
        pooling = "padded" if is_padded else "not padded"
        lines.append(
            f"note     these weights' max-pool is {pooling}, and the network that loads --layout {layout} has the "
            "other: its scores will differ a little"
        )
    if layout == "caffe":
        advice = "prepare BGR images as the recipe says; a prototxt subtracts a mean and has no std"
        if own is not None:
            mean = ", ".join(f"{value:g}" for value in own.mean[::-1])
            advice = f"the first convolution divides by the std; the prototxt's mean_value is {mean} (BGR)"
        return [*lines, f"note     {advice}"]
    if theirs is not None and theirs.is_bgr:
        lines.append("note     that network takes images as BGR, and so mean and std in that order")
    return [*lines, "note     prepare images for it as said above; a .pth cannot say it"]


def _is_padded(preprocessing: Preprocessing | None) -> bool:
    return preprocessing is not None and preprocessing.max_pool == "padded"


if __name__ == "__main__":
    sys.exit(main())
