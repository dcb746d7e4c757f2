"""The apex engine where there is neither Apex nor a GPU: its kernels are stood in for, everything around them is real.

APEX_SOURCE names a checkout of https://github.com/NVIDIA/apex, whose own Python is then used as well.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.engines import ApexConfig, NativeConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.config.reader import write_run_config
from pipeline.config.training import OptimConfig
from pipeline.engines import apex as apex_engine
from pipeline.engines.apex import ApexEngine, build_fused_sgd, check_apex
from pipeline.engines.native import NativeEngine
from pipeline.engines.sgd import build_sgd
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import EXIT_USER_ERROR, UserError
from pipeline.ground.ranks import Ranks
from pipeline.models import create_model
from pipeline.models.initialisation import initialise
from tests.conftest import REPOSITORY
from tests.engines import apex_stand_in
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe

pytestmark = pytest.mark.slow

GPU = torch.device("cuda", 0)
OPTIM = OptimConfig(lr=0.1, momentum=0.9, weight_decay=1e-3, decay="weights")
NESTEROV = OPTIM.model_copy(update={"nesterov": True})


@pytest.fixture
def without_apex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No module of Apex's names is loaded before or afterwards."""

    def unload() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("apex", "amp_C")]:
            del sys.modules[name]

    unload()
    yield
    unload()


@pytest.fixture
def stand_in(without_apex: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apex can be imported, and what is imported is ours and runs on the CPU."""
    apex_stand_in.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture(params=["stand-in", "source"])
def apex(request: pytest.FixtureRequest, without_apex: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apex can be imported, with kernels that run on the CPU: once its Python is ours, once it is Apex's own."""
    if request.param == "source":
        monkeypatch.syspath_prepend(str(apex_source()))
        apex_stand_in.install_extensions(tmp_path)
    else:
        apex_stand_in.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def apex_source() -> Path:
    if "APEX_SOURCE" not in os.environ:
        pytest.skip("APEX_SOURCE does not name a checkout of NVIDIA Apex")
    return Path(os.environ["APEX_SOURCE"])


def nano(seed: int = 1) -> nn.Module:
    model = create_model("senet_nano", 4, dropout=0.0)
    initialise(model, seed)
    return model


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, first: int = 0) -> None:
    """Steps on gradients that depend on the step alone, laid out as autograd would lay them out."""
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.step()


def momentum_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in model.named_parameters()}


def assert_bitwise_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_recipe_that_asks_for_apex_gets_its_fused_sgd(tmp_path: Path) -> None:
    config = small_recipe(tmp_path, engine="apex")
    assert config.apex == ApexConfig()


def test_missing_apex_is_answered_with_the_command_that_builds_it(without_apex: None) -> None:
    with pytest.raises(UserError, match=r"not installed; .*\n  bash .*/launch/install_apex.sh PATH_TO_APEX_SOURCE$"):
        check_apex(GPU)


@pytest.mark.parametrize("file", ["apex.py", "apex/__init__.py"])
def test_other_project_of_that_name_is_told_apart(
    file: str, without_apex: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('must not even be imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=f"the installed apex \\({tmp_path}/apex.*\\) is another project of that name"):
        check_apex(GPU)


def test_missing_extension_is_named(stand_in: None, tmp_path: Path) -> None:
    (tmp_path / "amp_C.py").unlink()
    with pytest.raises(UserError, match=r"built without the extension amp_C; .*\n  bash .*/launch/install_apex.sh"):
        check_apex(GPU)


def test_extension_that_does_not_load_is_shown_with_the_reason(stand_in: None, tmp_path: Path) -> None:
    (tmp_path / "amp_C.py").write_text("raise ImportError('undefined symbol: of another PyTorch')\n")
    with pytest.raises(UserError, match=r"amp_C cannot be imported \(undefined symbol: of another PyTorch\); build it"):
        check_apex(GPU)


def test_real_apex_without_its_extensions_lacks_only_them(without_apex: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(apex_source()))
    with pytest.raises(UserError, match="built without the extension amp_C"):
        check_apex(GPU)
    assert importlib.import_module("apex.optimizers").FusedSGD.__module__ == "apex.optimizers.fused_sgd"


def test_apex_needs_a_gpu(apex: None) -> None:
    with pytest.raises(UserError, match="engine: apex runs on CUDA GPUs only"):
        check_apex(torch.device("cpu"))


@pytest.fixture
def other_apex(tmp_path: Path) -> dict[str, str]:
    """An environment in which, whatever may be installed, an apex that is not NVIDIA's is found first."""
    (tmp_path / "other" / "apex").mkdir(parents=True)
    (tmp_path / "other" / "apex" / "__init__.py").touch()
    return {**os.environ, "PYTHONPATH": str(tmp_path / "other")}


def test_stage_ends_with_code_2_where_apex_is_missing(other_apex: dict[str, str], tmp_path: Path) -> None:
    images = write_image_folders(tmp_path / "images", num_classes=4, train_per_class=6, val_per_class=1)
    run = tmp_path / "run"
    run.mkdir()
    write_run_config(run, small_recipe(images, engine="apex"))
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    answer = run_module("stages", "train", "--run", str(run), environment=other_apex)
    assert answer.returncode == EXIT_USER_ERROR, answer.stderr
    assert "/launch/install_apex.sh PATH_TO_APEX_SOURCE" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_run_is_refused_before_its_first_stage_where_apex_is_missing(
    other_apex: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    answer = run_module("launch", "run", "configs/demo.yaml", "engine=apex", "--run", str(run), environment=other_apex)
    assert answer.returncode == EXIT_USER_ERROR, answer.stderr
    assert "/launch/install_apex.sh PATH_TO_APEX_SOURCE" in answer.stderr
    assert not run.exists()


def run_module(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("optim", [OPTIM, NESTEROV], ids=["momentum", "nesterov"])
def test_fused_sgd_takes_the_steps_of_pytorchs_sgd(optim: OptimConfig, apex: None) -> None:
    ours, theirs = nano(), nano()
    take_steps(ours, build_fused_sgd(ours, optim), 3)
    take_steps(theirs, build_sgd(theirs, optim), 3)
    assert_bitwise_equal(ours.state_dict(), theirs.state_dict())


def test_fused_sgd_decays_what_pytorchs_sgd_decays(apex: None) -> None:
    model = nano()
    ours, theirs = build_fused_sgd(model, OPTIM), build_sgd(model, OPTIM)
    assert len(ours.param_groups) == len(theirs.param_groups) == 2
    for our, their in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert our["weight_decay"] == their["weight_decay"]
        assert list(map(id, our["params"])) == list(map(id, their["params"]))


def engine_of(kind: str, model: nn.Module, optim: OptimConfig, execution: ExecutionConfig) -> NativeEngine:
    collective = Collective(Ranks(), timeout_seconds=60)
    if kind == "apex":
        return ApexEngine(model, optim, execution, collective)
    return NativeEngine(model, optim, execution, NativeConfig(), collective)


def train_on_blobs(engine: NativeEngine, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(6, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(4, (6,), generator=generator)
        engine.backward(nn.functional.cross_entropy(engine.forward(images), labels))
        engine.step(0.05)


@pytest.mark.parametrize("optim", [OPTIM, NESTEROV], ids=["momentum", "nesterov"])
@pytest.mark.parametrize(("first", "second"), [("native", "apex"), ("apex", "native")])
def test_either_engine_goes_on_from_the_others_state(
    first: str, second: str, optim: OptimConfig, apex: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apex_engine, "check_apex", lambda device: None)
    execution = ExecutionConfig()
    start = engine_of(first, nano(), optim, execution)
    train_on_blobs(start, range(2))
    weights, state = copy.deepcopy(start.model.state_dict()), copy.deepcopy(start.state_dict())
    json.dumps(dict(state.values))
    other = engine_of(second, nano(seed=2), optim, execution)
    train_on_blobs(other, range(7, 9))
    other.model.load_state_dict(weights)
    other.load_state_dict(state)
    train_on_blobs(other, range(2, 5))
    train_on_blobs(start, range(2, 5))
    assert_bitwise_equal(dict(other.model.state_dict()), dict(start.model.state_dict()))
    assert_bitwise_equal(dict(other.state_dict().tensors), dict(start.state_dict().tensors))


def test_last_parameter_without_momentum_leaves_that_of_the_others(apex: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apex_engine, "check_apex", lambda device: None)
    engines = [engine_of(kind, nano(), OPTIM, ExecutionConfig()) for kind in ("native", "apex")]
    train_on_blobs(engines[0], range(2))
    state = engines[0].state_dict()
    for group in build_sgd(engines[0].model, OPTIM).param_groups:
        last = next(name for name, parameter in engines[0].model.named_parameters() if parameter is group["params"][-1])
        state.tensors.pop(last)  # type: ignore[attr-defined]
    state = copy.deepcopy(state)
    results = []
    for kind in ("native", "apex"):
        engine = engine_of(kind, nano(), OPTIM, ExecutionConfig())
        engine.load_state_dict(state)
        train_on_blobs(engine, range(1))
        results.append(dict(engine.model.state_dict()))
    assert_bitwise_equal(*results)
