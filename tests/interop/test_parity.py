"""Networks of the libraries whose files are imported, with weights of their own: the same scores after the import, and
in theirs after the export."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn

from pipeline.data.preprocessing import read_preprocessing
from pipeline.ground.errors import UserError
from pipeline.interop.conversion import to_theirs
from pipeline.interop.importing import Imported, import_weights, read_foreign
from pipeline.interop.layout import layouts_of
from pipeline.models import create_model
from pipeline.models.claims import meta_model
from pipeline.models.network import Network
from pipeline.models.weights import load_tensors, read_weights
from pipeline.networks.registry import NETWORKS
from pipeline.store.weight_header import read_metadata
from tests.interop.random_weights import randomise, relative_error

pytestmark = pytest.mark.slow

timm = pytest.importorskip("timm")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    pretrainedmodels: Any = pytest.importorskip("pretrainedmodels")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network of another library, and what its file is recognised as."""

    make: Callable[[], nn.Module]
    layout: str
    network: str
    is_asked: bool = False
    """Whether its tensors have the names of another network's, so that the layout must be said."""
    comes_back: bool = True
    """Whether what is exported has its names again."""


def case_name(case: Case) -> str:
    return f"{case.layout}-{case.network}"


def of_timm(name: str, *told: Any, **options: Any) -> Case:
    return Case(lambda: timm.create_model(name), *told, **options)


def of_cadene(name: str, *told: Any, **options: Any) -> Case:
    return Case(lambda: getattr(pretrainedmodels, name)(pretrained=None), *told, **options)


def of_torchvision(name: str, *told: Any, **options: Any) -> Case:
    return Case(lambda: getattr(torchvision.models, name)(), *told, **options)


SE = ("se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d")
CASES = (
    of_cadene("se_resnet50", "cadene", "se_resnet50"),
    of_cadene("resnext101_32x4d", "cadene", "resnext101_32x4d"),
    of_cadene("bninception", "cadene", "bn_inception"),
    of_cadene("inceptionresnetv2", "cadene", "inception_resnet_v2"),
    of_cadene("vgg16_bn", "cadene", "vgg16_bn"),
    of_cadene("cafferesnet101", "cafferesnet", "resnet101", is_asked=True),
    # Copies of torchvision's and Facebook's networks: another name of the classifier, biases in front of batch norms.
    of_cadene("resnet50", "torchvision", "resnet50", is_asked=True, comes_back=False),
    of_cadene("fbresnet152", "torchvision", "resnet152", is_asked=True, comes_back=False),
    of_timm("legacy_senet154", "cadene", "senet154"),
    of_timm("legacy_seresnext50_32x4d", "cadene", "se_resnext50_32x4d"),
    of_timm("senet154", "timm", "senet154"),
    of_timm("seresnet50", "timm", "se_resnet50"),
    of_timm("resnet101", "timm", "resnet101", is_asked=True),
    of_timm("resnext101_32x4d", "timm", "resnext101_32x4d"),
    of_timm("inception_resnet_v2", "timm", "inception_resnet_v2"),
    of_timm("vgg16_bn", "timm", "vgg16_bn"),
    of_torchvision("resnet50", "torchvision", "resnet50", is_asked=True),
    of_torchvision("resnext50_32x4d", "torchvision", "resnext50_32x4d", is_asked=True),
    of_torchvision("vgg16_bn", "torchvision", "vgg16_bn"),
)


DEEPER = (
    of_cadene("senet154", "cadene", "senet154"),
    *(
        of_cadene(name, "cadene", name)
        for name in ("se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d")
    ),
    *(of_timm(f"legacy_{name.replace('_', '', 1)}", "cadene", name) for name in SE),
    *(of_timm(name.replace("_", "", 1), "timm", name) for name in SE),
    *(of_timm(name, "timm", name) for name in ("resnet50", "resnet152", "resnext50_32x4d")),
    *(of_torchvision(name, "torchvision", name) for name in ("resnet101", "resnet152")),
)
"""They differ from those in numbers of blocks alone, or have their names."""


def foreign(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"), warnings.catch_warnings():
        # pretrainedmodels calls torchvision as it was called years ago.
        warnings.simplefilter("ignore", UserWarning)
        network = make()
    network.to_empty(device="cpu")
    randomise(network.state_dict(), seed=154)
    return network.eval()


def as_evaluated(imported: Imported) -> Network:
    assert imported.preprocessing is not None
    assert imported.network.num_classes is not None
    model = meta_model(imported.network, imported.network.num_classes, imported.preprocessing.max_pool)
    load_tensors(model, imported.tensors, "file")
    return model.eval()


def pixels(size: int) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(size))


@torch.inference_mode()
def error(ours: nn.Module, theirs: nn.Module, size: int, *, is_bgr: bool = False) -> float:
    image = pixels(size)
    return relative_error(ours(image), theirs(image.flip(1) if is_bgr else image))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_file_gives_its_library_s_scores_and_so_does_what_is_exported(case: Case, tmp_path: Path) -> None:
    theirs = foreign(case.make)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    if case.is_asked:
        with pytest.raises(
            UserError, match=rf"(?s)several networks name .* this {case.network},.*\n  --layout {case.layout}: "
        ):
            read_foreign(tmp_path / "theirs.pth", None)
    imported = read_foreign(tmp_path / "theirs.pth", case.layout if case.is_asked else None)
    (tmp_path / "theirs.pth").unlink()
    assert (imported.layout, imported.network.name) == (case.layout, case.network)
    layout, ours = layouts_of(case.network)[case.layout], as_evaluated(imported)
    size = NETWORKS[case.network].image_size_px
    assert error(ours, theirs, size, is_bgr=layout.is_bgr) < 1e-4
    if case.comes_back:
        for tensor in theirs.state_dict().values():
            tensor.zero_()
        theirs.load_state_dict(to_theirs(imported.tensors, layout, case.network))
        assert error(ours, theirs, size, is_bgr=layout.is_bgr) < 1e-4


@pytest.mark.parametrize("case", DEEPER, ids=case_name)
def test_exported_names_and_shapes_are_those_that_the_library_expects(case: Case) -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs, ours = case.make().state_dict(), create_model(case.network, 1000).state_dict()
    named = to_theirs(ours, layouts_of(case.network)[case.layout], case.network)
    assert {key: tensor.shape for key, tensor in named.items()} == {key: each.shape for key, each in theirs.items()}


def test_cadene_s_file_of_the_time_gives_cadene_s_scores_at_320_px(tmp_path: Path) -> None:
    theirs = foreign(lambda: pretrainedmodels.senet154(pretrained=None))
    # Its fixed 7x7 window makes the classifier fail at 320 px; at 224 px the two are the same.
    theirs.avg_pool = nn.AdaptiveAvgPool2d(1)
    # As of 2018: PyTorch's first file format, and no batch counters.
    old = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(old) == 987
    torch.save(old, tmp_path / "senet154.pth", _use_new_zipfile_serialization=False)
    imported = import_weights(tmp_path / "senet154.pth", tmp_path / "w.safetensors", layout=None)
    assert (imported.layout, imported.network.name, imported.network.num_classes) == ("cadene", "senet154", 1000)
    written = read_preprocessing(read_metadata(tmp_path / "w.safetensors"), "w")
    ours = as_evaluated(dataclasses.replace(imported, preprocessing=written))
    load_tensors(ours, read_weights(tmp_path / "w.safetensors"), "w")
    assert error(ours, theirs, 224) < 1e-4
    assert error(ours, theirs, 320) < 1e-4
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("name", "options"), [("seresnet50", {"max_pool": "ceil"}), ("seresnet50", {"stride_in_3x3": False})]
)
def test_a_network_that_only_looks_alike_gives_other_scores(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs = foreign(lambda: timm.create_model(name))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    imported = read_foreign(tmp_path / "model.safetensors", layout=None)
    (tmp_path / "model.safetensors").unlink()
    assert imported.preprocessing is not None
    assert (imported.preprocessing.max_pool, imported.network.stride_in_3x3) == ("padded", True)
    if "max_pool" in options:
        imported = dataclasses.replace(imported, preprocessing=dataclasses.replace(imported.preprocessing, **options))
    else:
        imported = dataclasses.replace(imported, network=imported.network.model_copy(update=options))
    assert error(as_evaluated(imported), theirs, 224) > 1e-2
