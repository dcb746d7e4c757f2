"""Weights through timm itself, from its own cache and that of the Hugging Face hub, which the tests fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.ground.errors import UserError
from pipeline.interop.__main__ import main
from pipeline.interop.importing import import_weights
from pipeline.models.weights import read_weights
from pipeline.store.weight_header import read_metadata
from tests.interop.random_weights import randomise

timm: Any = pytest.importorskip("timm")
hub: Any = pytest.importorskip("huggingface_hub")

slow = pytest.mark.slow
Fill = Callable[[str], Mapping[str, torch.Tensor]]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Puts random weights where timm looks for those of a name, and returns them; nothing else can be got."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    revision = "0" * 40

    def fill(name: str) -> Mapping[str, torch.Tensor]:
        told = timm.get_pretrained_cfg(name)
        with torch.device("meta"):
            model = timm.create_model(name.partition(".")[0])
        model.to_empty(device="cpu")
        tensors: dict[str, torch.Tensor] = model.state_dict()
        randomise(tensors, seed=1)
        if told.hf_hub_id is None:
            folder = tmp_path / "torch" / "hub" / "checkpoints"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(tensors, folder / told.url.rpartition("/")[2])
            return tensors
        folder = tmp_path / "hub" / f"models--{told.hf_hub_id.replace('/', '--')}"
        for inner in ("refs", f"snapshots/{revision}"):
            (folder / inner).mkdir(parents=True)
        (folder / "refs" / "main").write_text(revision)
        save_file(tensors, folder / "snapshots" / revision / "model.safetensors")
        return tensors

    return fill


@slow
@pytest.mark.parametrize(
    ("name", "told", "first", "classifier"),
    [
        (
            "legacy_seresnet50",
            {"model": "se_resnet50", "source_layout": "cadene", "resize": "bilinear_antialias", "max_pool": "ceil"},
            "layer0.conv1.weight",
            "last_linear.weight",
        ),
        (
            "resnet50.tv_in1k",
            {"model": "resnet50", "source_layout": "timm", "resize": "bilinear_antialias", "max_pool": "padded"}
            | {"stride_in_3x3": "true"},
            "conv1.weight",
            "fc.weight",
        ),
        (
            "inception_resnet_v2.tf_in1k",
            {"model": "inception_resnet_v2", "source_layout": "timm", "resize": "bicubic_antialias"},
            "conv2d_1a.conv.weight",
            "classif.weight",
        ),
    ],
)
def test_timm_brings_weights_and_its_own_preprocessing(
    name: str,
    told: dict[str, str],
    first: str,
    classifier: str,
    cached: Fill,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = cached(name)
    assert main(["import", f"timm:{name}", str(tmp_path / "w.safetensors")]) == 0
    assert f"source   timm {timm.__version__}, {name.partition('.')[0]}" in capsys.readouterr().out
    metadata, found = read_metadata(tmp_path / "w.safetensors"), read_weights(tmp_path / "w.safetensors")
    assert {key: metadata[key] for key in told} == told
    mean = "[127.5, 127.5, 127.5]" if name.startswith("inception") else "[123.675, 116.28, 103.53]"
    assert (metadata["mean"], metadata["num_classes"]) == (mean, "1000")
    assert "source_sha256" not in metadata
    assert torch.equal(found["last_linear.weight"], tensors[classifier])
    assert torch.equal(found[f"layer0.{first}" if first == "conv1.weight" else first], tensors[first])
    assert main(["import", "timm:nothing", str(tmp_path / "other.safetensors")]) == 2
    assert "timm:nothing: timm" in capsys.readouterr().err


@slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnetblur50",
            r"timm:resnetblur50: has the tensors of resnet50, and computes something else with them: for the same "
            r"pixels the scores differ by .+ of the largest; it cannot be converted",
        ),
        (
            "mobilenetv1_100",
            "timm:mobilenetv1_100: timm's mobilenetv1_100, which has ReLU6 where mobilenet_v1 has ReLU, and so is "
            "another network",
        ),
    ],
)
def test_a_network_of_timm_s_that_computes_something_else_is_refused(
    name: str, message: str, cached: Fill, tmp_path: Path
) -> None:
    cached(next(full for full in timm.list_pretrained(name) if full.startswith(f"{name}.")))
    with pytest.raises(UserError, match=f"^{message}$"):
        import_weights(Path(f"timm:{name}"), tmp_path / "w.safetensors", None)
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_that_timm_cannot_get_are_said_to_be(cached: Fill, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^timm:resnet50: timm could not get the weights \(LocalEntryNotFoundError: "):
        import_weights(Path("timm:resnet50"), tmp_path / "w.safetensors", None)


def test_without_timm_its_name_is_answered_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="timm:legacy_senet154: needs timm: pip install timm"):
        import_weights(Path("timm:legacy_senet154"), tmp_path / "out.safetensors", None)
