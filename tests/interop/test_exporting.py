from __future__ import annotations

import dataclasses
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.preprocessing import Preprocessing
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.interop import caffe
from pipeline.interop.__main__ import main
from pipeline.interop.caffemodel import read_caffemodel
from pipeline.interop.exporting import export_weights
from pipeline.interop.importing import import_weights, read_foreign
from pipeline.interop.layout import LAYOUTS, layouts_of
from pipeline.models import create_model
from pipeline.models.weights import load_tensors, read_weights, save_weights
from pipeline.networks.registry import NETWORKS
from pipeline.store.weight_header import read_metadata
from tests.interop.caffe_network import MEAN_BGR, CaffeNetwork
from tests.interop.caffe_network import NETWORKS as CAFFE_NETWORKS
from tests.interop.random_weights import randomise, relative_error

pytestmark = pytest.mark.slow

OWN = Preprocessing((10.0, 20.0, 30.0), (4.0, 5.0, 6.0), "bilinear_antialias", "padded")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "weights.safetensors"
    tensors = create_model("senet_nano", 10).state_dict()
    randomise(tensors, seed=5)
    save_weights(path, tensors, {"model": "senet_nano", "num_classes": "10", **OWN.metadata()})
    return path


SMALL = [
    (network, layout.name, layout.stride_in_3x3)
    for layout in LAYOUTS
    for network in layout.networks
    if network.endswith("_nano") and layout.name != "ours" and not layout.obstacle
]


@pytest.mark.parametrize(("network", "layout", "stride_in_3x3"), SMALL)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_exported_comes_back_bit_for_bit(network, layout, stride_in_3x3, suffix, tmp_path):
    tensors = create_model(network, 10).state_dict()
    randomise(tensors, seed=5)
    entries = layouts_of(network)[layout].entries(network)
    own = dataclasses.replace(OWN, max_pool="padded" if "padded" in NETWORKS[network].max_pools else "ceil")
    save_weights(tmp_path / "ours.safetensors", tensors, {**entries, "num_classes": "10", **own.metadata()})
    export_weights(tmp_path / "ours.safetensors", tmp_path / f"theirs{suffix}", layout)
    imported = import_weights(tmp_path / f"theirs{suffix}", tmp_path / "back.safetensors", layout)
    after = read_weights(tmp_path / "back.safetensors")
    assert tensors.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())
    assert imported.network.metadata() == entries
    # A .pth has no place for it.
    assert (imported.preprocessing == own) == (suffix == ".safetensors")


@pytest.mark.parametrize("name", [name for name in caffe.PUBLISHED if name.endswith("_nano")])
def test_a_caffe_network_gives_our_scores_with_what_is_exported(name, tmp_path):
    pixels = Preprocessing(MEAN_BGR[::-1], (58.0, 57.0, 56.0), "bilinear")
    model = create_model(name, 1000)
    randomise(model.state_dict(), seed=5)
    save_weights(tmp_path / "ours.safetensors", model.state_dict(), {"model": name, **pixels.metadata()})
    export_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.caffemodel", "caffe")
    theirs = CaffeNetwork(1000, 0, CAFFE_NETWORKS[name])
    layers = {layer.name: (layer.kind, list(layer.blobs)) for layer in read_caffemodel(tmp_path / "theirs.caffemodel")}
    assert layers.keys() == {layer for layer, (_, blobs) in theirs.layers.items() if blobs}
    theirs.layers |= layers
    image_rgb = np.random.default_rng(1).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (pixels.mean, pixels.std))
    with torch.inference_mode():
        expected = model.eval()(((torch.from_numpy(image_rgb) - mean) / std)[None])[0]
    found = torch.from_numpy(theirs.forward(image_rgb[::-1])[caffe.devkit_rows()])
    assert relative_error(found, expected) < 1e-4
    back = read_foreign(tmp_path / "theirs.caffemodel", None).tensors
    assert all(torch.equal(back[key], tensor) for key, tensor in model.state_dict().items() if tensor.dim() < 4)


@pytest.mark.parametrize(
    ("metadata", "layout", "message"),
    [
        (
            {"model": "se_resnet_nano", "stride_in_3x3": "true"},
            "caffe",
            "its se_resnet_nano has the stride in the first 1x1 convolution, and these weights in the 3x3; these can "
            "be exported as timm, onnx",
        ),
        (
            {"model": "resnet_nano"},
            "torchvision",
            "its resnet_nano has the stride in the 3x3 convolution, and these weights in the first 1x1; these can be "
            "exported as cafferesnet, onnx",
        ),
        (
            {"model": "resnet_nano", "stride_in_3x3": "true"},
            "cafferesnet",
            "its resnet_nano has the stride in the first 1x1 convolution, and these weights in the 3x3; these can be "
            "exported as timm, torchvision, onnx",
        ),
        (
            {"model": "se_resnet_nano", "se": '{"integration": "post"}'},
            "cadene",
            "has no se_resnet_nano (integration post); these can be exported as onnx",
        ),
        (
            {"model": "se_resnet_nano"},
            "torchvision",
            "has no se_resnet_nano; these can be exported as cadene, caffe, onnx",
        ),
        ({"model": "mobilenet_nano"}, "timm", "has no mobilenet_nano; these can be exported as onnx"),
        (
            {"model": "se_bn_inception_nano"},
            "cadene",
            "has no se_bn_inception_nano; these can be exported as caffe, onnx",
        ),
    ],
)
def test_a_network_that_would_compute_something_else_is_not_exported_to(metadata, layout, message, tmp_path):
    source = tmp_path / "ours.safetensors"
    save_weights(source, create_model(metadata["model"], 10).state_dict(), metadata)
    with pytest.raises(UserError, match=f"^{re.escape(f'{source}: --layout {layout}: {message}')}$"):
        export_weights(source, tmp_path / f"theirs.{'caffemodel' if layout == 'caffe' else 'pth'}", layout)
    assert [path.name for path in tmp_path.iterdir()] == ["ours.safetensors"]


def test_an_exported_state_dict_loads_as_pytorch_loads_it(ours, tmp_path):
    export_weights(ours, tmp_path / "theirs.pth", "timm")
    found = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert {"conv1.0.weight", "bn1.weight", "layer2.1.se.fc2.bias", "fc.bias"} <= found.keys()
    export_weights(ours, tmp_path / "theirs.safetensors", "cadene")
    assert read_metadata(tmp_path / "theirs.safetensors") == {"format": "pt", **OWN.metadata()}


def test_a_limit_of_the_disk_is_named_and_leaves_nothing(ours, tmp_path, capsys):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        code = main(["export", str(ours), str(tmp_path / "theirs.pth"), "--layout", "cadene"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == EXIT_USER_ERROR
    assert f"{tmp_path / 'theirs.pth'}: a limit on the size of files" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_runtime_gives_our_scores_at_any_batch_and_size(ours, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_weights(ours, tmp_path / "w.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["w.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {
        "model": "senet_nano",
        "num_classes": "10",
        **OWN.metadata(),
    }
    model = create_model("senet_nano", 10, max_pool="padded")
    load_tensors(model, read_weights(ours), "ours")
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 32, 32), (5, 3, 64, 64), (2, 3, 33, 47), (1, 3, 224, 224)):
        images = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            expected = model.eval()(images)
        (found,) = session.run(["scores"], {"images": images.numpy()})
        assert relative_error(torch.from_numpy(np.asarray(found)), expected) < 1e-4, shape


def test_packages_that_onnx_needs_are_named(ours, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the packages onnx, onnxscript \(missing: onnx, onnxscript\)"):
        export_weights(ours, tmp_path / "w.onnx", "onnx")


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("w.pth", "onnx", "must end in .onnx, for --layout onnx"),
        ("w.onnx", "cadene", "must end in .pth or .safetensors, for --layout cadene"),
        ("none/w.pth", "timm", "there is no folder"),
    ],
)
def test_paths_are_checked_first(ours, tmp_path, name, layout, message):
    with pytest.raises(UserError, match=re.escape(message)):
        export_weights(ours, tmp_path / name, layout)
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_files_are_exported(ours, tmp_path):
    export_weights(ours, tmp_path / "theirs.pth", "timm")
    with pytest.raises(UserError, match=r"theirs\.pth: not of --layout ours: .* its names are those of --layout timm"):
        export_weights(tmp_path / "theirs.pth", tmp_path / "again.pth", "cadene")
