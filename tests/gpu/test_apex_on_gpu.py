"""Apex's kernels against PyTorch's, where there is a GPU and Apex is built (bash launch/install_apex.sh)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config.engines import NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.training import OptimConfig
from pipeline.engines.apex import ApexEngine, build_fused_sgd, check_apex
from pipeline.engines.native import NativeEngine
from pipeline.engines.sgd import build_sgd
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.models.initialisation import initialise

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

OPTIM = OptimConfig(lr=0.05, momentum=0.9, weight_decay=1e-2, decay="weights")


@pytest.fixture
def _float32_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32, and the same convolution algorithms in both engines."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def require_apex() -> None:
    try:
        check_apex(torch.device("cuda", 0))
    except UserError as error:
        pytest.skip(str(error))


def nano() -> nn.Module:
    model = create_model("senet_nano", 4, dropout=0.0)
    initialise(model, 1)
    return model


def gpu_nano() -> nn.Module:
    return nano().cuda().to(memory_format=torch.channels_last).train()


def images_and_labels(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(4, (16,), generator=generator)
    images = torch.randn(16, 3, 32, 32, generator=generator) + labels[:, None, None, None] - 1.5
    return images.cuda().contiguous(memory_format=torch.channels_last), labels.cuda()


def train(engine: NativeEngine, steps: range) -> None:
    for step in steps:
        images, labels = images_and_labels(step)
        engine.backward(nn.functional.cross_entropy(engine.forward(images), labels))
        engine.step(0.002)


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_sgd_is_pytorchs_sgd_to_the_last_bits(nesterov: bool) -> None:
    require_apex()
    optim = OPTIM.model_copy(update={"nesterov": nesterov})
    models = [gpu_nano(), gpu_nano()]
    optimizers = [build_fused_sgd(models[0], optim), build_sgd(models[1], optim)]
    for step in range(10):
        for model, optimizer in zip(models, optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # Two roundings or, with a fused multiply-add, one: a few units in the last place of weight and momentum.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_float32_arithmetic")
def test_apex_agrees_with_native_after_50_steps() -> None:
    require_apex()
    collective = Collective(Ranks(), timeout_seconds=60)
    execution = ExecutionConfig()
    engines = [
        ApexEngine(nano(), OPTIM, execution, collective),
        NativeEngine(nano(), OPTIM, execution, NativeConfig(), collective),
    ]
    for engine in engines:
        train(engine, range(50))
    ours, theirs = (flat(dict(engine.model.named_parameters())) for engine in engines)
    # Last bits that differ grow with every step, through batch norms over 16 images. On the CPU, two of PyTorch's own
    # SGDs end 0.001 apart, while a momentum of 0.89, or decaying every parameter or none, ends 0.004 to 0.008 away.
    assert (ours - theirs).norm() / theirs.norm() < 3e-3


@pytest.mark.usefixtures("_float32_arithmetic")
@pytest.mark.parametrize("apex_first", [False, True])
def test_either_engine_goes_on_from_the_others_state(apex_first: bool) -> None:
    require_apex()
    collective = Collective(Ranks(), timeout_seconds=60)
    execution = ExecutionConfig()
    engines: list[NativeEngine] = [
        ApexEngine(nano(), OPTIM, execution, collective),
        NativeEngine(nano(), OPTIM, execution, NativeConfig(), collective),
    ]
    first, second = engines if apex_first else engines[::-1]
    train(first, range(5))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for engine in engines:
        train(engine, range(5, 8))
    ours, theirs = (flat(dict(engine.model.named_parameters())) for engine in engines)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
