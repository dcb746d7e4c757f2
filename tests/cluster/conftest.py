"""The test's own Slurm and the runs on it. Jobs are mostly waiting, so several runs share it at the same time: those
that the chosen tests ask for begin together, and each test is about one that has come to its end."""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from tests.cluster import attempts
from tests.cluster.preempted import Chronicle, interrupt_training
from tests.cluster.runs import ClusterRun
from tests.cluster.slurm import Cluster, why_unavailable
from tests.cluster.submissions import (
    Checked,
    Nested,
    check,
    submit_from_a_task,
    submit_with_failing_setup,
    submit_without_environment,
)
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe

NewRun = Callable[..., ClusterRun]
Futures = Mapping[str, "concurrent.futures.Future[Any]"]

_UNAVAILABLE = why_unavailable()
_PARALLEL = 3
"""Runs at the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the cluster, and waits for runs that a busy machine makes slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(3600))


def pytest_runtest_setup() -> None:
    """Skipped here, at one place, the tests have one line of the summary together."""
    if _UNAVAILABLE is not None:
        pytest.skip(_UNAVAILABLE)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Five nodes, with cores enough for several runs at a time; one of the first three will die."""
    slurm = Cluster(tmp_path_factory.mktemp("slurm"), nodes=5, cpus=8)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Four epochs of 53 steps in all, each step on record."""
    images = write_image_folders(tmp_path_factory.mktemp("images"), num_classes=4, train_per_class=80, val_per_class=5)
    return small_recipe(
        images,
        train={"epochs": 4, "frozen_epochs": 0},
        tracking={"wandb": "auto", "log_every_steps": 1},
    )


@pytest.fixture(scope="session")
def prepared(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the stages before training done, to be copied."""
    run = tmp_path_factory.mktemp("prepared") / "run"
    run.mkdir()
    write_run_config(run, config)
    for stage in ("prepare", "build"):
        run_stage_to_end(run, stage)
    return run


@pytest.fixture(scope="session")
def new_run(cluster: Cluster, config: Config, tmp_path_factory: pytest.TempPathFactory) -> NewRun:
    """Makes a run of the recipe on the nodes that stay; `done` is a run directory to begin with, other keys are the
    profile's."""

    def make(done: Path | None = None, **keys: Any) -> ClusterRun:
        run = ClusterRun(cluster, tmp_path_factory.mktemp("cluster"), config, **{"constraint": "n4|n5", **keys})
        if done is not None:
            shutil.copytree(done, run.directory)
        return run

    return make


@pytest.fixture(scope="session")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by four processes of this machine that nobody interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(prepared, run)
    run_stage_to_end(run, "train", 4)
    return run


@pytest.fixture(scope="session")
def futures(
    request: pytest.FixtureRequest, new_run: NewRun, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Futures]:
    """The stories of all runs that the chosen tests ask for, the longest first."""
    hanging = attempts.hanging_python(tmp_path_factory.mktemp("hanging"))

    def stopped() -> attempts.Stopped:
        run = new_run(prepared, warning_seconds=540)
        run.variables = {"WANDB_MODE": "offline", "HOME": str(tmp_path_factory.mktemp("home"))}
        return attempts.stop_and_return(run)

    stories: dict[str, Callable[[], object]] = {
        "preempted": lambda: interrupt_training(new_run(nodes=2, tasks=2, constraint="n1|n2|n3")),
        "failed": lambda: attempts.fail_and_go_on(new_run(prepared, requeue_on_failure=1)),
        "swept": lambda: attempts.sweep_four(new_run()),
        "stopped": stopped,
        "evaluated": lambda: attempts.evaluate_file(new_run(prepared, nodes=2), prepared),
        "without_progress": lambda: attempts.never_get_further(new_run(prepared, python=hanging)),
        "tampered": lambda: attempts.tamper(new_run(python=hanging)),
        "nested": lambda: submit_from_a_task(new_run(prepared, python=hanging, memory_gb=1)),
        "failing_setup": lambda: submit_with_failing_setup(new_run(prepared, setup=["module load cuda/99"])),
        "checked": lambda: check(new_run(nodes=2, tasks=2)),
        "without_environment": lambda: submit_without_environment(new_run(prepared, python=hanging)),
    }
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        yield {name: pool.submit(story) for name, story in stories.items() if name in wanted}


@pytest.fixture(scope="session")
def preempted(futures: Futures) -> Chronicle:
    result: Chronicle = futures["preempted"].result()
    return result


@pytest.fixture(scope="session")
def failed(futures: Futures) -> attempts.Failed:
    result: attempts.Failed = futures["failed"].result()
    return result


@pytest.fixture(scope="session")
def swept(futures: Futures) -> attempts.Swept:
    result: attempts.Swept = futures["swept"].result()
    return result


@pytest.fixture(scope="session")
def stopped(futures: Futures) -> attempts.Stopped:
    result: attempts.Stopped = futures["stopped"].result()
    return result


@pytest.fixture(scope="session")
def evaluated(futures: Futures) -> ClusterRun:
    result: ClusterRun = futures["evaluated"].result()
    return result


@pytest.fixture(scope="session")
def without_progress(futures: Futures) -> attempts.WithoutProgress:
    result: attempts.WithoutProgress = futures["without_progress"].result()
    return result


@pytest.fixture(scope="session")
def nested(futures: Futures) -> Nested:
    result: Nested = futures["nested"].result()
    return result


@pytest.fixture(scope="session")
def checked(futures: Futures) -> Checked:
    result: Checked = futures["checked"].result()
    return result


@pytest.fixture(scope="session")
def failing_setup(futures: Futures) -> ClusterRun:
    result: ClusterRun = futures["failing_setup"].result()
    return result


@pytest.fixture(scope="session")
def without_environment(futures: Futures) -> str:
    result: str = futures["without_environment"].result()
    return result


@pytest.fixture(scope="session")
def tampered(futures: Futures) -> attempts.Tampered:
    result: attempts.Tampered = futures["tampered"].result()
    return result
