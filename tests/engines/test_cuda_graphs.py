"""CUDA graphs without a GPU: sections, gradients, the engine around them, and the proof that each start asks for."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config.execution import ExecutionConfig
from pipeline.engines import create_engine
from pipeline.engines.autocast import AutocastNetwork
from pipeline.engines.compilation import compile_blocks, compile_network
from pipeline.engines.cuda_graphs import Capture, disagreement, graphed, own_gradients, split
from pipeline.engines.engine import Engine
from pipeline.evaluation.inference import evaluating
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from tests.conftest import REPOSITORY
from tests.engines.cpu_graphs import capture, leave_as_it_is
from tests.engines.jobs import GLOBAL_BATCH, SIZE, Job, JobResults, global_batch, new_model, stand_in
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SHAPE = (8, 3, SIZE, SIZE)


def images() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))


def gradients(network: nn.Module, model: nn.Module) -> dict[str, torch.Tensor]:
    """Of some loss of `network`'s, by name in `model`, with the logits."""
    torch.manual_seed(1)
    logits = network(images())
    logits.square().mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"logits": logits.detach(), **found}


@pytest.mark.parametrize("compile_", [None, compile_blocks, compile_network])
@pytest.mark.parametrize("frozen", [False, True])
def test_sections_one_after_another_are_the_network(
    frozen: bool, compile_: Callable[[nn.Module, str], nn.Module] | None
) -> None:
    torch._dynamo.reset()
    plain = new_model(frozen).train()
    model = copy.deepcopy(plain)
    sections = split(compile_(model, "eager") if compile_ else model)
    expected, found = gradients(plain, plain), gradients(nn.Sequential(*sections), model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_sections_of_senet154_have_nine_blocks_at_most_and_each_parameter_once() -> None:
    with torch.device("meta"):
        model = create_model("senet154", 1000)
    sections = split(model)
    assert [len(section) for section in sections] == [2, 3, 8, 9, 9, 9, 9, 3, 4]
    parts = [parameter for section in sections for parameter in section.parameters()]
    assert len(parts) == len(list(model.parameters())) == len({id(part) for part in parts})


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_captured_sections_pass_the_proof(precision: str, channels_last: bool, frozen: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = new_model(frozen).to(memory_format=layout).train()
    own_gradients(model)
    plain = AutocastNetwork(model, ExecutionConfig.model_validate({"precision": precision}), CPU)
    seen = images().contiguous(memory_format=layout)
    assert disagreement(plain, graphed(plain, seen, capture), model, seen, precision) is None


def test_the_network_that_is_evaluated_and_saved_is_left_as_it_is() -> None:
    model = new_model().train()
    plain = AutocastNetwork(model, ExecutionConfig(), CPU)
    names = list(model.state_dict())
    graphed(plain, images(), capture)
    assert list(model.state_dict()) == names
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.eval()(torch.zeros(3, 3, 40, 40)).shape == (3, 4)


def accumulators(model: nn.Module) -> Iterator[Any]:
    """What is noted of the nodes that add to the parameters' gradients; it is lost with them."""
    for parameter in model.parameters():
        yield parameter.expand_as(parameter).grad_fn.next_functions[0][0].metadata


def test_no_autograd_graph_outlives_its_pass_into_the_capture_or_the_capture_itself() -> None:
    """Its nodes would be of another stream than those that go on."""
    model = new_model().train()
    noted = []

    def note(module: nn.Module, *_: object) -> None:
        for metadata in accumulators(module):
            metadata["noted"] = True
            noted.append(module)

    def watched(sections: tuple[nn.Module, ...], samples: tuple[tuple[torch.Tensor, ...], ...]) -> None:
        assert noted
        assert not any("noted" in metadata for metadata in accumulators(model))
        capture(sections, samples)
        # The captured outputs have kept them.
        assert all("noted" in metadata for metadata in accumulators(model))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    graphed(AutocastNetwork(model, ExecutionConfig(), CPU), images(), watched)
    assert not any("noted" in metadata for metadata in accumulators(model))


@pytest.mark.parametrize("owned", [True, False])
def test_gradients_add_up_in_memory_of_their_own_alone(owned: bool) -> None:
    """Without it they are the graphs' memory, and the second pass overwrites the first."""
    model = new_model(dropout=0.0).train()
    batches = (images(), images().flip(3))

    def both_passes(network: nn.Module) -> dict[str, torch.Tensor]:
        for batch in batches:
            network(batch).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = both_passes(model)
    model.zero_grad(set_to_none=True)
    network = graphed(AutocastNetwork(model, ExecutionConfig(), CPU), images(), capture)
    if owned:
        own_gradients(model)
    found = both_passes(network)
    assert all(torch.equal(found[name], value) for name, value in expected.items()) == owned


def test_a_batch_of_another_size_is_a_bug_and_never_repeated_to_fill_the_place() -> None:
    network = graphed(AutocastNetwork(new_model(), ExecutionConfig(), CPU), images(), capture)
    with pytest.raises(AssertionError, match=r"captured for torch.Size\(\[8, 3, 32, 32\]\) \(given"):
        network(images()[:1])


class Wrong(nn.Module):
    """The network with something done before or after each of its passes, as a broken graph would do it."""

    def __init__(self, model: nn.Module, before: Callable[[nn.Module], Any], after: Callable[[nn.Module, Any], Any]):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits, as they came."""
        kept = self.before(self.model)
        logits: torch.Tensor = self.model(x)
        self.after(self.model, kept)
        return logits


def with_momentum(value: float) -> Callable[..., None]:
    """Of the batch norms' statistics."""

    def change(model: nn.Module, *_: object) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = value

    return change


def forget_first(model: nn.Module, _: object) -> None:
    first = next(model.parameters()).grad
    assert first is not None
    first.zero_()


WRONG: dict[str, tuple[Callable[[nn.Module], Any], Callable[[nn.Module, Any], Any], str]] = {
    "the same dropout again": (lambda model: torch.manual_seed(3), lambda model, kept: None, "the logits, by .*, and "),
    "a gradient overwritten": (lambda model: None, forget_first, r"the gradient of layer0.conv1.weight, by [\d.]+ of"),
    "statistics not moved": (with_momentum(0.0), with_momentum(0.1), "layer0.bn1.running_mean, by .*, and "),
}


def test_a_twin_that_does_the_same_passes_and_the_model_is_as_before() -> None:
    model = new_model().train()
    own_gradients(model)
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    twin = Wrong(model, lambda model: None, lambda model, kept: None)
    assert disagreement(model, twin, model, images(), "float32") is None
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not any(parameter.grad is None or parameter.grad.any() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_twin_that_does_something_else_is_found_out(kind: str, precision: str) -> None:
    model = new_model().train()
    own_gradients(model)
    before, after, message = WRONG[kind]
    problem = disagreement(model, Wrong(model, before, after), model, images(), precision)
    assert re.match(message, str(problem)), problem


def test_a_twin_that_keeps_a_copy_of_the_weights_is_found_out() -> None:
    model = new_model(dropout=0.0).train()
    own_gradients(model)
    assert str(disagreement(model, copy.deepcopy(model), model, images(), "bfloat16")).startswith("the logits, by ")


def test_gradients_that_are_no_numbers_do_not_pass() -> None:
    model = new_model(dropout=0.0).train()
    own_gradients(model)

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(x)
            logits.register_hook(lambda gradient: gradient * torch.nan)
            return logits

    assert "the gradient of layer0.conv1.weight, by nan" in str(
        disagreement(model, Broken(), model, images(), "float32")
    )


def engine_of(model: nn.Module, taker: Capture | None, **sections: Any) -> Engine:
    config = small_recipe(Path("unused"), native={"cuda_graphs": taker is not None}, **sections)
    with stand_in(taker):
        return create_engine(model, config, Collective(Ranks(), timeout_seconds=60))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
def test_without_a_gpu_there_are_none() -> None:
    config = small_recipe(Path("unused"), native={"cuda_graphs": True})
    with pytest.raises(
        UserError, match=r"^native.cuda_graphs: needs a GPU, and there is none here; set native.cuda_gr"
    ):
        create_engine(new_model(), config, Collective(Ranks(), timeout_seconds=60))


def test_a_wrong_capture_never_trains() -> None:
    def forget(section: nn.Module, *_: object) -> None:
        section[-1].weight.grad.zero_()

    def overwriting(sections: tuple[nn.Module, ...], samples: tuple[tuple[torch.Tensor, ...], ...]) -> None:
        capture(sections, samples)
        sections[-1].register_forward_hook(forget)

    engine = engine_of(new_model(), overwriting)
    with pytest.raises(
        UserError,
        match=r"^native.cuda_graphs: CUDA graphs are not to be trusted here: the gradient of last_linear.weight, by "
        r"[\d.]+ of itself; set native.cuda_graphs: false$",
    ):
        engine.warm_up(SHAPE)


def test_a_capture_that_fails_says_why() -> None:
    def failing(sections: tuple[nn.Module, ...], samples: tuple[tuple[torch.Tensor, ...], ...]) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nand much more")

    with pytest.raises(UserError, match=r"capturing or replaying them failed \(CUDA out of memory.\); set native.c"):
        engine_of(new_model(), failing).warm_up(SHAPE)


def test_processes_give_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collective, "any", lambda self, flag: True)
    with pytest.raises(UserError, match="to be trusted here: another process has found them wrong; set"):
        engine_of(new_model(), capture).warm_up(SHAPE)


WITHOUT = """
import sys
from pathlib import Path
from pipeline.engines import create_engine
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from tests.recipes import small_recipe

engine = create_engine(create_model("senet_nano", 4), small_recipe(Path("unused")), Collective(Ranks(), 60))
engine.warm_up((2, 3, 32, 32))
assert "pipeline.engines.native" in sys.modules
assert "pipeline.engines.cuda_graphs" not in sys.modules
"""


def test_nothing_needs_their_code_unless_the_recipe_asks_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("execution", [{}, {"precision": "bfloat16"}, {"channels_last": False}])
def test_an_engine_with_graphs_validates_in_between_and_goes_on_from_a_checkpoint(execution: dict[str, Any]) -> None:
    """With accumulation and dropout, and what is evaluated on the way."""
    found = []
    for taker in (None, capture):
        model = new_model()
        engine = engine_of(model, taker, execution=execution)
        initial = copy.deepcopy(model.state_dict())
        engine.warm_up(SHAPE)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in initial.items())
        evaluated = []
        for step in range(4):
            train(engine, step)
            with evaluating(engine.model), torch.no_grad():
                evaluated.append(engine.model(global_batch(step)[0][:3]))
            if step == 1:
                saved = copy.deepcopy((engine.model.state_dict(), engine.state_dict()))
        last = copy.deepcopy(engine.model.state_dict())
        # A second attempt.
        model = new_model()
        model.load_state_dict(saved[0])
        engine = engine_of(model, taker, execution=execution)
        engine.warm_up(SHAPE)
        engine.load_state_dict(saved[1])
        for step in (2, 3):
            train(engine, step)
        found.append([*evaluated, *last.values(), *engine.model.state_dict().values()])
        assert all(torch.equal(one, other) for one, other in zip(last.values(), found[-1][-len(last) :], strict=True))
    for plain, captured in zip(*found, strict=True):
        assert torch.equal(captured, plain)


def train(engine: Engine, step: int) -> None:
    """One step of two micro-batches."""
    torch.manual_seed(step)
    seen, labels = global_batch(step)
    for part in (slice(0, 8), slice(8, GLOBAL_BATCH)):
        with engine.accumulating(last=part.stop == GLOBAL_BATCH):
            engine.backward(nn.functional.cross_entropy(engine.forward(seen[part]), labels[part]) / 2)
    engine.step(0.01)


CAPTURES: dict[str, Capture | None] = {"plain": None, "sections": leave_as_it_is, "graphs": capture}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> JobResults:
    """Of 5 steps by one and by two processes, two micro-batches each."""
    groups = []
    for world_size in (1, 2):
        for options in ({}, {"static_graph": True}):
            jobs = []
            for name, taker in CAPTURES.items():
                sections = {
                    "train": {"max_micro_batch": GLOBAL_BATCH // world_size // 2},
                    "native": {**options, "cuda_graphs": taker is not None},
                }
                jobs.append(Job(f"{name}-{world_size}-{len(options)}", sections, last_step=5, capture=taker))
            groups.append((world_size, jobs))
    return JobResults(tmp_path_factory.mktemp("jobs"), groups)


@pytest.mark.parametrize("is_static", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("kind", ["sections", "graphs"])
def test_the_engine_trains_as_without_graphs_bit_for_bit(
    results: JobResults, kind: str, world_size: int, is_static: int
) -> None:
    for rank in range(world_size):
        expected = results.of(f"plain-{world_size}-{is_static}", rank)
        found = results.of(f"{kind}-{world_size}-{is_static}", rank)
        for name, value in expected.model.items():
            assert torch.equal(found.model[name], value), name
        for name, value in expected.optimizer.tensors.items():
            assert torch.equal(found.optimizer.tensors[name], value), name
