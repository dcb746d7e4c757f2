from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from pipeline.config.training import OptimConfig
from pipeline.engines.sgd import build_sgd, set_learning_rate
from pipeline.models import create_model


def decayed_names(decay: Literal["all", "weights"]) -> tuple[set[str], nn.Module]:
    model = create_model("senet_nano", 10)
    optimizer = build_sgd(model, OptimConfig(lr=0.1, weight_decay=1e-4, decay=decay))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(parameter)]
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] > 0
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    return decayed, model


def test_all_means_every_parameter_decays() -> None:
    decayed, model = decayed_names("all")
    assert decayed == {name for name, _ in model.named_parameters()}


def test_weights_leaves_out_every_batch_norm_and_bias_those_of_projections_too() -> None:
    decayed, model = decayed_names("weights")
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert f"{name}.weight" in decayed
            assert f"{name}.bias" not in decayed
        elif isinstance(module, nn.BatchNorm2d):
            assert f"{name}.weight" not in decayed, name
    assert "layer1.0.downsample.1.weight" not in decayed


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_textbooks(nesterov: bool) -> None:
    torch.manual_seed(3)
    layer = nn.Linear(3, 2, bias=False)
    optimizer = build_sgd(layer, OptimConfig(lr=0.5, momentum=0.9, nesterov=nesterov, weight_decay=0.01))
    weight, velocity = layer.weight.detach().clone(), torch.zeros(2, 3)
    for _ in range(3):
        gradient = torch.randn(2, 3)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        total = gradient + 0.01 * weight
        velocity = 0.9 * velocity + total
        weight = weight - 0.5 * (total + 0.9 * velocity if nesterov else velocity)
        assert torch.allclose(layer.weight, weight, rtol=1e-6, atol=1e-7)


def test_the_classifier_learns_at_its_own_rate_and_all_else_at_the_recipe_s() -> None:
    model = create_model("senet_nano", 3)
    optimizer = build_sgd(model, OptimConfig(lr=0.1, head_lr_factor=10.0, decay="weights"))
    set_learning_rate(optimizer, 0.25)
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {name: 2.5 if name.startswith("last_linear.") else 0.25 for name in found}


def test_without_a_factor_there_are_the_two_groups_of_always() -> None:
    optimizer = build_sgd(create_model("senet_nano", 3), OptimConfig(lr=0.1, decay="weights"))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0]
