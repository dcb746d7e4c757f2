"""SENet-154 of the libraries whose files are imported, with weights of their own: the same scores after the import."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.data.preprocessing import read_preprocessing
from pipeline.interop.importing import import_weights, read_foreign
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.weights import load_tensors, load_weights
from pipeline.networks.registry import MaxPool
from pipeline.store.weight_header import read_metadata
from tests.interop.random_weights import randomise, relative_error

pytestmark = pytest.mark.slow

timm = pytest.importorskip("timm")


def cadene_network() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        senet = pytest.importorskip("pretrainedmodels.models.senet")
    network = senet.senet154(num_classes=1000, pretrained=None)
    # Its fixed 7x7 window makes the classifier fail at 320 px; at 224 px the two are the same.
    network.avg_pool = nn.AdaptiveAvgPool2d(1)
    return network


def foreign(make) -> nn.Module:
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    randomise(network.state_dict(), seed=154)
    return network.eval()


def unfilled(max_pool: MaxPool) -> Network:
    with torch.device("meta"):
        return create_model("senet154", 1000, max_pool=max_pool)


@torch.inference_mode()
def errors(ours: nn.Module, theirs: nn.Module) -> dict[int, float]:
    ours.eval()
    images = {size: torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size)) for size in (224, 320)}
    return {size: relative_error(ours(image), theirs(image)) for size, image in images.items()}


def test_cadene_s_file_of_the_time_gives_cadene_s_scores(tmp_path: Path):
    theirs = foreign(cadene_network)
    # As of 2018: PyTorch's first file format, and no batch counters.
    old = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(old) == 987
    torch.save(old, tmp_path / "senet154.pth", _use_new_zipfile_serialization=False)
    imported = import_weights(tmp_path / "senet154.pth", tmp_path / "w.safetensors", layout=None)
    assert (imported.layout, imported.network.name, imported.network.num_classes) == ("cadene", "senet154", 1000)
    preprocessing = read_preprocessing(read_metadata(tmp_path / "w.safetensors"), "w")
    assert preprocessing is not None
    ours = unfilled(preprocessing.max_pool)
    load_weights(ours, tmp_path / "w.safetensors")
    found = errors(ours, theirs)
    assert max(found.values()) < 1e-4, found
    for file in tmp_path.iterdir():
        file.unlink()


def test_timm_s_legacy_file_gives_timm_s_scores(tmp_path: Path):
    theirs = foreign(lambda: timm.create_model("legacy_senet154"))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    imported = read_foreign(tmp_path / "model.safetensors", layout=None)
    assert imported.layout == "cadene"
    ours = unfilled("ceil")
    load_tensors(ours, imported.tensors, "timm")
    found = errors(ours, theirs)
    assert max(found.values()) < 1e-4, found
    (tmp_path / "model.safetensors").unlink()


def test_timm_s_gluon_file_gives_timm_s_scores_with_timm_s_pooling_and_no_other(tmp_path: Path):
    theirs = foreign(lambda: timm.create_model("senet154"))
    torch.save(theirs.state_dict(), tmp_path / "gluon.pth")
    imported = read_foreign(tmp_path / "gluon.pth", layout=None)
    assert imported.preprocessing is not None
    assert (imported.layout, imported.preprocessing.max_pool) == ("gluon", "padded")
    assert imported.preprocessing.resize == "bicubic_antialias"
    ours = unfilled("padded")
    load_tensors(ours, imported.tensors, "timm")
    found = errors(ours, theirs)
    assert max(found.values()) < 1e-4, found
    ours.pool0 = unfilled("ceil").pool0
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert relative_error(ours(image), theirs(image)) > 1e-2
    (tmp_path / "gluon.pth").unlink()


@pytest.mark.parametrize(("name", "layout"), [("legacy_senet154", "cadene"), ("senet154", "gluon")])
def test_exported_names_and_shapes_are_those_that_timm_expects(name, layout):
    from pipeline.interop.layout import LAYOUTS

    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
        ours = create_model("senet154", 1000).state_dict()
    named = {LAYOUTS[layout].to_theirs(key): tensor.shape for key, tensor in ours.items()}
    assert named == {key: tensor.shape for key, tensor in theirs.items()}
