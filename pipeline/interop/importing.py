"""Convert weight files of other software to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline.config.network import ModelConfig
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop import caffe
from pipeline.interop.caffemodel import read_caffemodel
from pipeline.interop.container import recognise
from pipeline.interop.known import PORTED, Published, published
from pipeline.interop.layout import choose_layout
from pipeline.interop.network import identify, list_some
from pipeline.interop.tensor_file import read_tensor_file
from pipeline.interop.timm import SCHEME, read_timm
from pipeline.models.claims import meta_model
from pipeline.models.weights import complete_tensors, save_weights
from pipeline.networks.registry import NETWORKS
from pipeline.store.file import sha256_of
from pipeline.store.weight_header import read_metadata


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network's weights in our layout, and their origin."""

    layout: str
    network: ModelConfig
    tensors: dict[str, torch.Tensor]
    """The network's whole state dict; floating point values in float32."""
    preprocessing: Preprocessing | None
    """None if the recipe's applies."""
    sha256: str
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
    place = str(source)
    notes: list[str] = []
    origin, kind = "", "timm" if place.startswith(SCHEME) else recognise(source)
    if kind == "timm":
        (name, described, tensors, preprocessing), origin = _from_timm(place, layout)
    elif kind == "caffe":
        name, described, tensors, preprocessing = _from_caffe(source, layout)
    else:
        name, described, tensors, preprocessing = _from_tensors(source, kind, layout, entry, notes.append)
    classifier = tensors.get("last_linear.weight")
    num_classes = len(classifier) if classifier is not None and classifier.dim() else 1
    network = ModelConfig.described(described, num_classes, place)
    model = meta_model(network, num_classes)
    complete = complete_tensors(model, tensors, place)
    expected = model.state_dict()
    # In the network's own order and types: some publish float16.
    converted = {key: complete[key].to(expected[key].dtype) for key in expected}
    sha256 = "" if origin else sha256_of(source)
    return Imported(name, network, converted, preprocessing, sha256, tuple(notes), origin)


def check_destination(path: Path) -> None:
    """Raise UserError if a file has no folder, or exists already."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent}")
    if path.exists():
        raise UserError(f"{path}: is there already; remove it or choose another name")


_Read = tuple[str, Mapping[str, str], dict[str, torch.Tensor], Preprocessing | None]
"""Layout, the metadata that describe the network, tensors under our names, preprocessing."""


def _from_caffe(source: Path, forced: str | None) -> _Read:
    layers = read_caffemodel(source)
    shapes = {layer.name: layer.blobs[0].shape for layer in layers if layer.kind == "Convolution"}
    if forced not in (None, "caffe"):
        raise UserError(f"{source}: not of --layout {forced}: it is a Caffe file (--layout caffe); {list_some(shapes)}")
    name = identify(shapes, str(source))
    return "caffe", {"model": name}, caffe.to_tensors(source, layers, name), caffe.PREPROCESSING


def _from_timm(place: str, forced: str | None) -> tuple[_Read, str]:
    name = place.removeprefix(SCHEME)
    tensors, preprocessing, source = read_timm(name, padded=not name.startswith("legacy_"))
    layout, model, renamed, _ = _renamed(place, tensors, {}, forced)
    return (layout, model, renamed, preprocessing), source


def _from_tensors(source: Path, kind: str, forced: str | None, entry: str | None, note: Callable[[str], None]) -> _Read:
    metadata = read_metadata(source) if kind == "safetensors" else {}
    return _renamed(str(source), read_tensor_file(source, kind, entry, note), metadata, forced)


def _renamed(
    source: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], forced: str | None
) -> _Read:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    described = metadata if metadata.get("model") in NETWORKS else {"model": identify(shapes, source)}
    name = described["model"]
    is_ours = described is metadata or name not in PORTED
    layout = choose_layout(shapes, is_ours, forced, source)
    if layout is None:
        raise UserError(f"{source}: has the convolutions of {name}, but names of no known layout; {list_some(shapes)}")
    said = read_preprocessing(metadata, source)
    renamed = {layout.to_ours(name): tensor for name, tensor in tensors.items()}
    return layout.name, described, renamed, said or layout.preprocessing
