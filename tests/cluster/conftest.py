"""The test's own Slurm and the runs on it. Jobs are mostly waiting, so several runs share it at the same time."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from tests.cluster.preempted import Chronicle, live_through
from tests.cluster.runs import ClusterRun, profile
from tests.cluster.slurm import Cluster, why_unavailable
from tests.images import write_image_folders
from tests.processes import run_stage_to_end
from tests.recipes import small_recipe

_UNAVAILABLE = (
    why_unavailable()
    if os.environ.get("CLUSTER_TESTS") == "1"
    else "takes a real Slurm and eight minutes: CLUSTER_TESTS=1 make test ARGS=tests/cluster"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the cluster; one reason for all makes one line of the summary."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(900))
            if _UNAVAILABLE is not None:
                item.add_marker(pytest.mark.skip(reason=_UNAVAILABLE))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, of which one will die, with cores enough for several runs at a time."""
    slurm = Cluster(tmp_path_factory.mktemp("slurm"), nodes=3, cpus=8)
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
        train={"epochs": 4},
        freeze_bn={"last_epochs": 0},
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
def new_run(cluster: Cluster, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ClusterRun]:
    """Makes a run of the recipe; `done` is a run directory to begin with, other keys are the profile's."""

    def make(done: Path | None = None, **keys: Any) -> ClusterRun:
        run = ClusterRun(cluster, tmp_path_factory.mktemp("cluster"), config, profile(**keys))
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


@pytest.fixture(scope="session", autouse=_UNAVAILABLE is None)
def preempted(new_run: Callable[..., ClusterRun]) -> Iterator[concurrent.futures.Future[Chronicle]]:
    """The run of `tests.cluster.preempted`. It begins with the first test and goes on behind the others."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(live_through, new_run(nodes=2, tasks=2))
