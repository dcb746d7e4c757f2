from __future__ import annotations

import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.preprocessing import Preprocessing
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.interop.__main__ import main
from pipeline.interop.exporting import export_weights
from pipeline.interop.importing import import_weights
from pipeline.models import create_model
from pipeline.models.weights import load_tensors, read_weights, save_weights
from pipeline.store.weight_header import read_metadata
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


@pytest.mark.parametrize("layout", ["cadene", "gluon"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_exported_comes_back_bit_for_bit(ours, tmp_path, layout, suffix):
    export_weights(ours, tmp_path / f"theirs{suffix}", layout)
    imported = import_weights(tmp_path / f"theirs{suffix}", tmp_path / "back.safetensors", layout)
    before, after = read_weights(ours), read_weights(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # A .pth has no place for it.
    assert (imported.preprocessing == OWN) == (suffix == ".safetensors")


def test_an_exported_state_dict_loads_as_pytorch_loads_it(ours, tmp_path):
    export_weights(ours, tmp_path / "theirs.pth", "gluon")
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
        ("none/w.pth", "gluon", "there is no folder"),
    ],
)
def test_paths_are_checked_first(ours, tmp_path, name, layout, message):
    with pytest.raises(UserError, match=re.escape(message)):
        export_weights(ours, tmp_path / name, layout)
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_files_are_exported(ours, tmp_path):
    export_weights(ours, tmp_path / "theirs.pth", "gluon")
    with pytest.raises(UserError, match=r"theirs\.pth: not of --layout ours: .* its names are those of --layout gluon"):
        export_weights(tmp_path / "theirs.pth", tmp_path / "again.pth", "cadene")


@pytest.mark.parametrize(("name", "layout"), [("se_bn_inception_nano", "cadene"), ("se_resnet_nano", "gluon")])
def test_a_network_without_names_in_a_layout_is_refused(tmp_path: Path, name: str, layout: str):
    save_weights(tmp_path / "w.safetensors", create_model(name, 4).state_dict(), {"model": name})
    with pytest.raises(UserError, match=f"--layout {layout}: {name} has no names in this layout; use onnx"):
        export_weights(tmp_path / "w.safetensors", tmp_path / "w.pth", layout)
    assert not (tmp_path / "w.pth").exists()
