"""Export the network as an ONNX graph, for runtimes other than PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.ground.errors import UserError
from pipeline.interop.importing import Imported
from pipeline.models.claims import meta_model
from pipeline.models.weights import load_tensors
from pipeline.networks.layers import POOLING
from pipeline.networks.registry import NETWORKS
from pipeline.store.file import replacing

INPUT, OUTPUT = "images", "scores"
_NEEDED = ("onnx", "onnxscript")
_SMALLEST_TRACED_PX = 64


def export_onnx(imported: Imported, path: Path) -> None:
    """Write the network in eval mode as one file: normalised `images` (N, 3, H, W) to `scores` before the softmax.

    The batch is free, and so are height and width (multiples of 32 for BN-Inception), but for a network that pools to a
    map of more than one pixel. The metadata hold the preprocessing, if it is known. Raises UserError if the packages
    that write ONNX are not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--layout onnx: needs the packages {', '.join(_NEEDED)} (missing: {', '.join(missing)})")
    preprocessing = imported.preprocessing
    max_pool = preprocessing.max_pool if preprocessing else "ceil"
    network = imported.network
    assert network.num_classes is not None
    model = meta_model(network, network.num_classes, max_pool)
    load_tensors(model, imported.tensors, network.name)
    row = NETWORKS[network.name]
    shape: dict[int, Any] = {0: "batch"}
    size = row.image_size_px
    if POOLING in dict(model.named_children()):
        size = max(size, _SMALLEST_TRACED_PX)
        is_any = row.size_multiple == 1
        shape |= {
            axis: side if is_any else row.size_multiple * torch.export.Dim(side)
            for axis, side in ((2, "height"), (3, "width"))
        }
    # Two images: the exporter treats a size of one as a constant.
    example = torch.zeros(2, 3, size, size)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(shape,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(
        {
            **network.metadata(),
            "num_classes": str(network.num_classes),
            **(preprocessing.metadata() if preprocessing else {}),
        }
    )
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about inequalities of sizes that it could not prove and did not need."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
