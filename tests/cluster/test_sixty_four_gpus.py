"""The recipe and the profile of 8 nodes with 8 GPUs, as they are, on eight nodes with stand-ins for GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pipeline.config.reader import load_config
from tests.cluster.attempts import hanging_python
from tests.cluster.runs import PATIENCE, ClusterRun
from tests.cluster.slurm import Cluster, wait_until
from tests.conftest import REPOSITORY

_RANK = re.compile(
    r"rank (?P<rank>\d+) of 64, local rank (?P<local>\d) on (?P<node>\w+), GPUs (?P<gpus>\S*), meeting at (?P<place>.+)"
)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterRun]:
    """All stages in the queue; they would start, but not come to anything."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), nodes=8, cpus=64, gpus=8)
    try:
        cluster.start()
        folder = tmp_path_factory.mktemp("run")
        config = load_config(REPOSITORY / "configs" / "senet154_ilsvrc2017.yaml", [f"data.root={folder}"])
        run = ClusterRun(cluster, folder, config)
        profile = (REPOSITORY / "slurm" / "profiles" / "8x8_gpu.yaml").read_text()
        run.profile.write_text(f"{profile}python: {hanging_python(folder)}\n")
        answer = run.submit()
        assert answer.code == 0, answer.output
        assert re.search(r"train +\d+ +submitted +8 +64 +1 d", answer.output), answer.output
        assert "global batch 2048 = 64 processes x 32 images x 1 accumulation step" in answer.output
        yield run
    finally:
        cluster.stop()


def test_slurm_has_a_place_for_the_job_of_64_gpus(submitted: ClusterRun) -> None:
    (script,) = submitted.directory.glob("jobs/train-*.sbatch")
    answer = submitted.cluster.command("bash", "-c", 'sbatch --test-only "$0" 2>&1', str(script))
    assert "using 512 processors on nodes n[1-8]" in answer


def test_the_job_s_64_processes_have_a_rank_and_a_gpu_each_and_meet_in_one_place(submitted: ClusterRun) -> None:
    train = submitted.job_id("train")
    submitted.cluster.command("scontrol", "update", f"JobId={train}", "Dependency=")
    submitted.cluster.command("scancel", *(submitted.job_id(stage) for stage in submitted.stage("train").inputs))
    log = submitted.log_path("train")

    def ranks() -> dict[int, re.Match[str]]:
        text = log.read_text() if log.exists() else ""
        return {int(match["rank"]): match for match in _RANK.finditer(text)}

    wait_until(lambda: len(ranks()) == 64, PATIENCE, "64 ranks")
    found = ranks()
    assert sorted(found) == list(range(64))
    for rank, match in found.items():
        assert (match["node"], match["local"]) == (f"n{rank // 8 + 1}", str(rank % 8))
        assert match["gpus"] == "0,1,2,3,4,5,6,7"
    assert len({match["place"] for match in found.values()}) == 1
