from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.batch_norm import FrozenBatchNorm2d
from pipeline.models.head import freeze_all_but_head, is_in_head, lay_over


def test_a_classifier_of_another_size_stays_new_and_all_else_is_taken() -> None:
    model, other = create_model("senet_nano", 3, seed=1), create_model("senet_nano", 5, seed=2)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not lay_over(model, other.state_dict(), "file")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name] if is_in_head(name) else other.state_dict()[name]), name


def test_a_classifier_of_the_same_size_is_taken_too() -> None:
    model, other = create_model("senet_nano", 3, seed=1), create_model("senet_nano", 3, seed=2)
    assert lay_over(model, other.state_dict(), "file")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"), [("missing", "1 of 414 tensors missing: layer0"), ("shape", "of another shape: layer0")]
)
def test_whatever_else_does_not_fit_is_refused(change: str, message: str) -> None:
    model = create_model("senet_nano", 3)
    tensors = dict(create_model("senet_nano", 5).state_dict())
    if change == "missing":
        del tensors["layer0.conv1.weight"]
    else:
        tensors["layer0.conv1.weight"] = torch.zeros(1, 3, 3, 3)
    with pytest.raises(UserError, match="file: these weights are not this network's") as raised:
        lay_over(model, tensors, "file")
    assert message.replace("414", str(len(model.state_dict()))) in str(raised.value)


def test_frozen_but_for_the_head_nothing_else_moves() -> None:
    model = create_model("senet_nano", 3)
    freeze_all_but_head(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "last_linear.weight",
        "last_linear.bias",
    }
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    model.train()(torch.randn(2, 3, 32, 32)).logsumexp(1).mean().backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"last_linear.weight", "last_linear.bias"}


def test_the_head_s_name_is_that_of_the_networks_classifier(tmp_path: Path) -> None:
    linear = [name for name, module in create_model("senet_nano", 3).named_modules() if isinstance(module, nn.Linear)]
    assert [name for name in linear if is_in_head(f"{name}.weight")] == ["last_linear"]
