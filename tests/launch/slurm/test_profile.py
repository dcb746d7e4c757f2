from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.slurm.profile import Shape, load_profile
from pipeline.ground.errors import UserError
from stages import STAGES
from tests.conftest import REPOSITORY

PROFILE = """\
partition: gpu
warning_seconds: 120
stages:
  prepare: {minutes: 60, partition: cpu}
  build: {minutes: 10}
  train:
    nodes: 2
    gpus_per_node: 4
    minutes: 90
  freeze_bn: {nodes: 2, tasks_per_node: 3, minutes: 30}
  evaluate: {minutes: 30, cpus_per_task: 4}
  fuse: {minutes: 10}
  report: {minutes: 10}
"""
PROFILES = sorted((REPOSITORY / "slurm" / "profiles").glob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.chdir(tmp_path)

    def write_profile(text: str) -> Path:
        Path("p.yaml").write_text(text)
        return Path("p.yaml")

    return write_profile


TRAINING_ALONE = """\
partition: gpu
stages:
  train: {nodes: 2, gpus_per_node: 4, cpus_per_task: 8, minutes: 5000, partition: big}
"""


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_that_the_profile_does_not_name_gets_what_its_declaration_says(write, stage):
    shapes = load_profile(write(TRAINING_ALONE)).shapes()
    assert list(shapes) == [stage.name for stage in STAGES]
    if stage.name == "train":
        return
    if stage.shape.processes == "as training":
        expected = Shape(nodes=2, gpus_per_node=4, cpus_per_task=8, minutes=stage.shape.minutes, partition="big")
    else:
        expected = Shape(minutes=stage.shape.minutes, partition="gpu")
    assert shapes[stage.name] == expected


def test_a_default_time_limit_is_none_that_the_cluster_may_refuse_and_none_without_time_for_the_warning(write):
    short = load_profile(write("stages:\n  train: {minutes: 20}\n")).shapes()
    assert {shape.minutes for shape in short.values()} == {20}
    late = load_profile(write("warning_seconds: 36000\nstages:\n  train: {minutes: 700}\n")).shapes()
    assert {shape.minutes for shape in late.values()} == {700}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_that_come_with_the_project_are_right(path):
    shapes = load_profile(path).shapes()
    for stage in STAGES:
        assert shapes[stage.name].tasks == 1 or stage.is_distributed, stage.name


@pytest.mark.parametrize(("name", "nodes", "gpus"), [("8x8_gpu", 8, 64), ("1x8_gpu", 1, 8), ("1x1_gpu", 1, 1)])
def test_a_gpu_profile_is_named_by_what_training_gets(name, nodes, gpus):
    train = load_profile(REPOSITORY / "slurm" / "profiles" / f"{name}.yaml").shapes()["train"]
    assert (train.nodes, train.nodes * train.gpus_per_node, train.tasks) == (nodes, gpus, gpus)


def test_there_is_one_process_for_each_gpu_and_the_profile_s_place_unless_a_stage_has_its_own(write):
    shapes = load_profile(write(PROFILE)).shapes()
    assert (shapes["train"].tasks, shapes["freeze_bn"].tasks, shapes["evaluate"].tasks) == (8, 6, 1)
    assert {name: shape.partition for name, shape in shapes.items() if shape.partition != "gpu"} == {"prepare": "cpu"}
    assert shapes["train"].describe() == "2 nodes x 4 GPUs"
    assert shapes["freeze_bn"].describe() == "2 nodes x 3 tasks"
    assert shapes["report"].describe() == "1 node x 1 task"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("minutes: 90", "minutes: 24:00:00", "p.yaml:9: stages.train.minutes: must be a whole number (given 24:00:00)"),
        ("minutes: 90", "minuts: 90", "p.yaml:9: stages.train.minuts: unknown key (did you mean 'minutes'?)"),
        ("    minutes: 90\n", "", "p.yaml:6: stages.train.minutes: must be given: a whole number"),
        ("nodes: 2\n", "nodes: 0\n", "p.yaml:7: stages.train.nodes: must be greater than 0 (given 0)"),
        ("minutes: 90", "memory_gb: 1.5\n    minutes: 9", "stages.train.memory_gb: must be a whole number or null"),
        ("  train:\n", "  freeze_bn:\n", "p.yaml:3: stages.train: must be given: a section with the keys nodes, "),
        ("  report:", "  melt:", "p.yaml:13: stages.melt: unknown key (there are: "),
        ("  report:", "  reports:", "p.yaml:13: stages.reports: unknown key (did you mean 'report'?)"),
        ("partition: gpu\n", "nodes: 2\n", "p.yaml:1: nodes: unknown key here (it belongs to stages.prepare or"),
        ("partition: gpu\n", "setup: module load cuda\n", "p.yaml:1: setup: must be a list, each item text"),
        ("    minutes: 90", "    tasks_per_node: 4\n    minutes: 90", "stages.train.tasks_per_node: must be left out"),
        ("minutes: 90", "minutes: 3", "p.yaml:9: stages.train.minutes: must be more than the warning before the end"),
        (
            "warning_seconds: 120",
            "warning_seconds: 5",
            "warning_seconds: must be greater than or equal to 10 (given 5)",
        ),
        ("partition: gpu", "partition: [gpu", "p.yaml:1: not valid YAML: a bracket that opens here is not closed"),
    ],
)
def test_a_mistake_is_named_with_its_line(write, old, new, message):
    assert PROFILE.count(old) == 1
    with pytest.raises(UserError, match=re.escape(message)):
        load_profile(write(PROFILE.replace(old, new)))


def test_all_mistakes_are_named_at_once(write):
    text = PROFILE.replace("nodes: 2\n", "nodes: two\n").replace("partition: gpu", "partion: gpu")
    with pytest.raises(UserError) as caught:
        load_profile(write(text))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["partion", "stages.train.nodes"]


def test_a_profile_that_is_not_there_is_answered_with_those_that_are(write):
    write(PROFILE)
    with pytest.raises(UserError, match=r"--profile: q\.yaml: no such file or directory \(did you mean p\.yaml\?\)"):
        load_profile(Path("q.yaml"))


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_a_file_without_keys_is_no_profile(write, text):
    with pytest.raises(UserError, match=r"p\.yaml:1: a profile must be `key: value` lines"):
        load_profile(write(text))
