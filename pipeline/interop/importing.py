"""Convert weight files of other software to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.config.network import ModelConfig
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop import caffe
from pipeline.interop.caffemodel import read_caffemodel
from pipeline.interop.container import recognise
from pipeline.interop.conversion import to_ours
from pipeline.interop.known import PORTED, Published, file_of, published
from pipeline.interop.layout import choose_layout, layouts_of
from pipeline.interop.network import identify, list_some
from pipeline.interop.tensor_file import read_tensor_file
from pipeline.interop.timm import SCHEME, load_timm
from pipeline.models.claims import meta_model
from pipeline.models.network import HEAD
from pipeline.models.weights import complete_tensors, load_tensors, save_weights
from pipeline.networks.registry import NETWORKS
from pipeline.store.file import sha256_of
from pipeline.store.weight_header import read_metadata

_WITH_BACKGROUND = 1001
_TIMM_LAYOUTS = ("timm", "cadene")
"""Layouts of timm's networks; the legacy ones have Cadene's names."""
_MOST_DIFFERENCE = 1e-3
"""Of scores that are the same but for rounding."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network's weights in our layout, and their origin."""

    layout: str
    network: ModelConfig
    tensors: dict[str, torch.Tensor]
    """The network's whole state dict; floating point values in float32."""
    preprocessing: Preprocessing | None
    """None if the recipe's applies."""
    sha256: str = ""
    """Of the file; empty if there is none."""
    notes: tuple[str, ...] = ()
    """What was taken off names, or left out."""
    source: str = ""
    """Where weights come from that no file was given for."""

    def metadata(self) -> dict[str, str]:
        """Entries for the header of the weight file."""
        return {
            **self.network.metadata(),
            "num_classes": str(self.network.num_classes),
            "source_layout": self.layout,
            **({"source": self.source} if self.source else {"source_sha256": self.sha256}),
            **(self.preprocessing.metadata() if self.preprocessing else {}),
        }

    def published(self) -> Published | None:
        """Return the published file with these weights, or None."""
        return published(self.metadata())


def import_weights(source: Path, destination: Path, layout: str | None, entry: str | None = None) -> Imported:
    """Convert `source`, a file or `timm:NAME`, to the safetensors file `destination`, which must not exist.

    The layout is recognised unless `layout` names one; `entry` names one of several networks in a file. Raises
    UserError if a path or the content is wrong.
    """
    if destination.suffix != ".safetensors":
        raise UserError(f"{destination}: must end in .safetensors")
    check_destination(destination)
    imported = read_foreign(source, layout, entry)
    save_weights(destination, imported.tensors, imported.metadata())
    return imported


def read_foreign(source: Path, layout: str | None, entry: str | None = None) -> Imported:
    """Read and convert a file. Raises UserError as `import_weights` does."""
    if str(source).startswith(SCHEME):
        return _from_timm(str(source), layout)
    kind, sha256 = recognise(source), sha256_of(source)
    if known := file_of(sha256):
        if layout not in (None, known.layout):
            raise UserError(f"{source}: not of --layout {layout}: by its checksum it is {known.file} ({known.layout})")
        layout = known.layout
    notes: list[str] = []
    if kind == "caffe":
        read = _from_caffe(source, layout)
    else:
        metadata = read_metadata(source) if kind == "safetensors" else {}
        tensors = read_tensor_file(source, kind, entry, notes.append)
        read = _renamed(str(source), tensors, metadata, layout, notes.append)
    return _completed(str(source), read, sha256=sha256, notes=tuple(notes))


def check_destination(path: Path) -> None:
    """Raise UserError if a file has no folder, or exists already."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}")
    if path.exists():
        raise UserError(f"{path}: is there already; remove it or choose another name")


_Read = tuple[str, Mapping[str, str], dict[str, torch.Tensor], Preprocessing | None]
"""Layout, the metadata that describe the network, tensors under our names, preprocessing."""


def _completed(place: str, read: _Read, **origin: Any) -> Imported:
    """Return what was read with the network's whole state dict, in its order and types: some publish float16."""
    layout, described, tensors, preprocessing = read
    classifier = tensors.get(f"{HEAD}.weight")
    num_classes = len(classifier) if classifier is not None and classifier.dim() else 1
    network = ModelConfig.described(described, num_classes, place)
    model = meta_model(network, num_classes)
    complete = complete_tensors(model, tensors, place)
    converted = {key: complete[key].to(tensor.dtype) for key, tensor in model.state_dict().items()}
    return Imported(layout, network, converted, preprocessing, **origin)


def _from_caffe(source: Path, forced: str | None) -> _Read:
    layers = read_caffemodel(source)
    shapes = {layer.name: layer.blobs[0].shape for layer in layers if layer.kind == "Convolution"}
    if forced not in (None, "caffe"):
        raise UserError(f"{source}: not of --layout {forced}: it is a Caffe file (--layout caffe); {list_some(shapes)}")
    name = identify(shapes, str(source))
    return "caffe", {"model": name}, caffe.to_tensors(source, layers, name), caffe.PREPROCESSING


def _from_timm(place: str, forced: str | None) -> Imported:
    """Read weights through timm, and let its network and ours answer for the same pixels: names do not tell all."""
    theirs, told, source = load_timm(place.removeprefix(SCHEME))
    tensors = theirs.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    network = identify(shapes, place)
    known = layouts_of(network)
    own = [name for name in _TIMM_LAYOUTS if name in known and known[name].has(shapes, network)]
    layout, described, renamed, usual = _renamed(place, tensors, {}, forced or next(iter(own), None))
    preprocessing = dataclasses.replace(told, max_pool=(usual or told).max_pool)
    imported = _completed(place, (layout, described, renamed, preprocessing), source=source)
    model = meta_model(imported.network, len(imported.tensors[f"{HEAD}.weight"]), preprocessing.max_pool)
    load_tensors(model, imported.tensors, place)
    size = NETWORKS[imported.network.name].image_size_px
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = theirs.eval()(pixels), model.eval()(pixels)
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < _MOST_DIFFERENCE:
        raise UserError(
            f"{place}: has the tensors of {imported.network.name}, and computes something else with them: for the same "
            f"pixels the scores differ by {error:.2g} of the largest; it cannot be converted"
        )
    return imported


def _renamed(
    source: str,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    forced: str | None,
    note: Callable[[str], None] = lambda text: None,
) -> _Read:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    is_described = metadata.get("model") in NETWORKS
    name = metadata["model"] if is_described else identify(shapes, source)
    layout = choose_layout(name, shapes, is_described or name not in PORTED, forced, source)
    found = to_ours(tensors, layout, name)
    if layout.has_background and len(found.get(f"{HEAD}.bias", ())) == _WITH_BACKGROUND:
        note("left out: the first of 1001 classes, the background")
        found |= {f"{HEAD}.{kind}": found[f"{HEAD}.{kind}"][1:] for kind in ("weight", "bias")}
    said = read_preprocessing(metadata, source)
    described = metadata if is_described else layout.entries(name)
    return layout.name, described, found, said or layout.preprocessing
