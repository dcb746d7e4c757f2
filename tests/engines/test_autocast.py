"""The casts of the weights to a narrow type: one an optimizer step, with the bits of one a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engines import create_engine
from pipeline.engines.autocast import AutocastNetwork
from pipeline.engines.engine import Engine
from pipeline.evaluation.inference import evaluating
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.training.batching import split_batch
from tests.engines.jobs import GLOBAL_BATCH, SIZE, learning_rate, micro_batches, new_model
from tests.recipes import small_recipe

ACCUMULATION = 4


class CastsOfWeights(TorchDispatchMode):
    """Counts the casts of each parameter that is cast at all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names = {parameter.data_ptr(): name for name, parameter in network.named_parameters()}
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (name := self._names.get(args[0].data_ptr())):
            self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def narrow_engine() -> Engine:
    config = small_recipe(Path("unused"), execution={"precision": "bfloat16"})
    engine = create_engine(new_model(), config, Collective(Ranks(), timeout_seconds=60))
    engine.warm_up((GLOBAL_BATCH // ACCUMULATION, 3, SIZE, SIZE))
    return engine


def take_step(engine: Engine, step: int) -> None:
    split = split_batch(GLOBAL_BATCH, 1, GLOBAL_BATCH // ACCUMULATION)
    for index, (images, labels) in enumerate(micro_batches(step, 0, split)):
        with engine.accumulating(last=index == ACCUMULATION - 1):
            engine.backward(nn.functional.cross_entropy(engine.forward(images), labels) / ACCUMULATION)
    engine.step(learning_rate(0.05, step))


def test_each_weight_is_cast_once_an_optimizer_step() -> None:
    engine = narrow_engine()
    cast = {
        f"{name}.{kind}"
        for name, module in engine.model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for kind, _ in module.named_parameters()
    }
    assert len(cast) > 10
    for step in range(2):
        with CastsOfWeights(engine.model) as seen:
            take_step(engine, step)
        assert seen.counts == dict.fromkeys(cast, 1)


def test_steps_have_the_bits_of_those_that_cast_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """With evaluations in between, which cast the same weights under an autocast of their own, without gradients."""
    ends = []
    for keeps_casts in (True, False):
        if not keeps_casts:
            monkeypatch.setattr(AutocastNetwork, "forward", casting_in_every_pass)
        torch.manual_seed(3)
        engine = narrow_engine()
        for step in range(3):
            take_step(engine, step)
            with evaluating(engine.model), torch.autocast("cpu", torch.bfloat16):
                engine.model(torch.ones(2, 3, SIZE, SIZE))
        ends.append(engine.model.state_dict())
    assert not all(torch.equal(new_model().state_dict()[name], ends[0][name]) for name in ends[0])
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


def casting_in_every_pass(network: AutocastNetwork, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        logits: torch.Tensor = network.network(images)
    return logits.float()


def test_a_pass_without_gradients_cuts_no_weight_off_from_them() -> None:
    engine = narrow_engine()
    with torch.no_grad():
        engine.forward(torch.ones(2, 3, SIZE, SIZE))
    engine.backward(engine.forward(torch.ones(2, 3, SIZE, SIZE)).logsumexp(1).mean())
    assert all(parameter.grad is not None for parameter in engine.model.parameters())
    engine.step(0.0)  # ends its casts


@pytest.mark.parametrize("failing", ["forward", "backward", "step"])
def test_a_failure_leaves_no_casts_to_whoever_comes_after_it(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for lack of memory: the cache of autocast is the whole process's."""

    def fail(*given: object, **keys: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    engine = narrow_engine()
    owner, name = {
        "forward": (nn.functional, "linear"),
        "backward": (torch.Tensor, "backward"),
        "step": (torch.optim.SGD, "step"),
    }[failing]
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(owner, name, fail)
        take_step(engine, 0)
    other, images = nn.Linear(4, 2), torch.ones(3, 4)
    outputs = []
    for factor in (1, 2):
        with torch.no_grad():
            other.weight.mul_(factor)
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(other(images).detach())
    assert not torch.equal(*outputs)
