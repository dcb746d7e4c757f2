"""Networks inside the checkpoints of others, as their own code writes them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.ground.errors import UserError
from pipeline.interop.importing import import_weights
from pipeline.models import create_model
from pipeline.models.weights import read_weights

NETWORK = create_model("senet_nano", 5, seed=1)
TENSORS = NETWORK.state_dict()


def renamed(prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in TENSORS.items()}


def other() -> dict[str, Any]:
    return {name: tensor + 1 for name, tensor in TENSORS.items()}


def imported(tmp_path: Path, content: object, **options: Any) -> tuple[str, ...]:
    """Import what a file holds, which must be TENSORS; returns what was told."""
    torch.save(content, tmp_path / "w.pth")
    out = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
    notes = import_weights(tmp_path / "w.pth", out, None, **options).notes
    written = read_weights(out)
    assert all(torch.equal(written[name], tensor) for name, tensor in TENSORS.items())
    return notes


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module._orig_mod._orig_mod.", "model.",
     "net.", "backbone.", "model.module.", "my_network."],
)  # fmt: skip
def test_a_prefix_that_all_names_have_is_taken_off_and_said(tmp_path, prefix):
    notes = imported(tmp_path, renamed(prefix))
    shown = prefix.replace("_orig_mod.", "")
    assert notes == ((f"taken from ':{shown}'",) if shown else ())


def test_blocks_that_were_compiled_one_by_one_are_read(tmp_path):
    assert (
        imported(tmp_path, {name.replace(".conv1", "._orig_mod.conv1"): each for name, each in TENSORS.items()}) == ()
    )


def test_the_module_of_deepspeed_and_the_state_dict_of_lightning_are_found(tmp_path):
    deepspeed = {"module": dict(TENSORS), "buffer_names": [], "optimizer": None, "global_steps": 7}
    assert imported(tmp_path, deepspeed) == ("taken from 'module'",)
    lightning = {"state_dict": {**renamed("model."), "criterion.weight": torch.ones(3)}, "epoch": 3}
    assert imported(tmp_path, lightning) == (
        "taken from 'state_dict:model.'",
        "left out, since they are not the network's: criterion.weight",
    )


def test_the_classifier_beside_a_backbone_is_its_own(tmp_path):
    names = {name: name.replace("last_linear.", "head.fc.") for name in TENSORS}
    content = {name if name.startswith("head.") else f"backbone.{name}": TENSORS[own] for own, name in names.items()}
    assert imported(tmp_path, {"state_dict": content, "meta": {}}) == ("taken from 'state_dict:backbone.'",)


def test_an_averaged_model_of_pytorch_s_is_read(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(NETWORK, use_buffers=True).state_dict()
    notes = imported(tmp_path, averaged)
    assert notes == ("taken from ':module.'", "left out, since they are not the network's: n_averaged")


def test_two_networks_are_asked_about_and_never_chosen(tmp_path):
    arguments = argparse.Namespace(model="senet154", lr=0.1, distributed=True)
    torchvision = {
        "model": dict(TENSORS),
        "model_ema": {"n_averaged": torch.tensor(4), **{f"module.{name}": each for name, each in other().items()}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "args": arguments,
        "epoch": 99,
    }
    with pytest.raises(UserError) as raised:
        imported(tmp_path, torchvision)
    assert "holds 2 networks that differ: 'model', 'model_ema:module.'; say which one with --entry, as in " in str(
        raised.value
    )
    assert imported(tmp_path, torchvision, entry="model") == ("taken from 'model'",)
    with pytest.raises(UserError, match=r"--entry: must be one of 'model', 'model_ema:module\.' \(given 'ema'\)"):
        imported(tmp_path, torchvision, entry="ema")
    timm = {"state_dict": dict(TENSORS), "state_dict_ema": other(), "args": arguments, "arch": "legacy_senet154"}
    with pytest.raises(UserError, match="'state_dict', 'state_dict_ema'"):
        imported(tmp_path, timm)
    assert imported(tmp_path, {**timm, "state_dict_ema": dict(TENSORS)}) == ("taken from 'state_dict'",)
    lightning = {"state_dict": renamed("model.") | {f"ema.{name}": each for name, each in other().items()}}
    with pytest.raises(UserError, match=r"'state_dict:model\.', 'state_dict:ema\.'"):
        imported(tmp_path, lightning)
    assert imported(tmp_path, lightning, entry="state_dict:model.") == ("taken from 'state_dict:model.'",)


def test_a_pickled_network_is_refused_with_the_lines_that_save_its_numbers(tmp_path, monkeypatch):
    torch.save(NETWORK, tmp_path / "whole.pth")
    with pytest.raises(UserError) as raised:
        import_weights(tmp_path / "whole.pth", tmp_path / "out.safetensors", None)
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert len(lines) == 3
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines))
    import_weights(tmp_path / "whole-state-dict.pth", tmp_path / "out.safetensors", None)
    assert torch.equal(read_weights(tmp_path / "out.safetensors")["last_linear.bias"], TENSORS["last_linear.bias"])
