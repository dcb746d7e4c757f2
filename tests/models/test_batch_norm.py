from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config.training import OptimConfig
from pipeline.engines.sgd import build_sgd
from pipeline.models import create_model
from pipeline.models.batch_norm import FrozenBatchNorm2d, Scope, freeze_batch_norms, frozen_digest

pytestmark = pytest.mark.slow

SEED = 5


def trained_a_little() -> nn.Module:
    torch.manual_seed(SEED)
    model = create_model("senet_nano", 10, dropout=0.0)
    model.train()
    for _ in range(2):
        model(torch.randn(8, 3, 32, 32))
    return model


def train_steps(model: nn.Module, steps: int) -> None:
    optimizer = build_sgd(model, OptimConfig(lr=0.1))
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
        optimizer.step()


def test_statistics_and_affine_stay_bit_for_bit_under_train_and_steps() -> None:
    model = trained_a_little()
    assert freeze_batch_norms(model, "statistics_and_affine") == sum(
        "bn" in n or n.endswith("downsample.1") for n, m in model.named_modules()
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    digest = frozen_digest(model)
    train_steps(model, 3)
    assert frozen_digest(model) == digest
    frozen = {n for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    for name, value in model.state_dict().items():
        if name.rpartition(".")[0] in frozen:
            assert torch.equal(value, before[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(value, before[name]), f"{name} did not learn"


def test_statistics_scope_lets_gamma_and_beta_learn() -> None:
    model = trained_a_little()
    freeze_batch_norms(model, "statistics")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_steps(model, 2)
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            assert torch.equal(module.running_mean, before[f"{name}.running_mean"])
            assert torch.equal(module.running_var, before[f"{name}.running_var"])
            assert not torch.equal(module.weight, before[f"{name}.weight"])


def test_no_batch_norm_is_left_unfrozen() -> None:
    model = trained_a_little()
    freeze_batch_norms(model, "statistics_and_affine")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("scope", ["statistics", "statistics_and_affine"])
def test_the_frozen_network_computes_what_the_network_computes_in_eval_mode(scope: Scope) -> None:
    model = trained_a_little()
    images = torch.randn(4, 3, 32, 32)
    expected = model.eval()(images)
    freeze_batch_norms(model, scope)
    assert torch.equal(model.train()(images), expected)


@pytest.mark.parametrize("scope", ["statistics", "statistics_and_affine"])
def test_state_dict_keeps_its_names_and_loads_into_an_unfrozen_network(scope: Scope) -> None:
    model = trained_a_little()
    names = list(model.state_dict())
    freeze_batch_norms(model, scope)
    assert sorted(model.state_dict()) == sorted(names)
    create_model("senet_nano", 10).load_state_dict(model.state_dict())


def test_frozen_parameters_are_not_in_the_optimizer() -> None:
    model = trained_a_little()
    freeze_batch_norms(model, "statistics_and_affine")
    in_optimizer = sum(len(group["params"]) for group in build_sgd(model, OptimConfig(lr=0.1)).param_groups)
    assert in_optimizer == len(list(model.parameters()))
    assert not any("bn" in name for name, _ in model.named_parameters())


def test_stays_bit_for_bit_under_compile() -> None:
    model = trained_a_little()
    freeze_batch_norms(model, "statistics_and_affine")
    digest = frozen_digest(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = build_sgd(model, OptimConfig(lr=0.1))
    for _ in range(2):
        model.train()
        nn.functional.cross_entropy(compiled(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
        optimizer.step()
    assert frozen_digest(model) == digest
