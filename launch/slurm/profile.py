"""The shape of a run on a cluster, as data: what each stage is given, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.config.document import Entry, Place, decode_document
from pipeline.config.problems import explain, in_order, take_out_unknown_keys
from pipeline.config.section import Names, Natural, PositiveInt, Section
from pipeline.ground.errors import UserError

_WARNING_MAY_BE_OFF_BY_SECONDS = 60
"""sbatch(1) on --signal: "may be sent up to 60 seconds earlier than specified"."""


class Shape(Section):
    """What one stage's job is given."""

    nodes: PositiveInt = 1
    gpus_per_node: Natural = 0
    """Also the tasks of a node: one process per GPU. 0: a job without GPUs."""
    tasks_per_node: PositiveInt = 1
    """Processes of a node where there are no GPUs; where there are, it is left out."""
    cpus_per_task: PositiveInt = 1
    """Cores of each process: the training itself and its decoding threads."""
    memory_gb: PositiveInt | None = None
    """Of each node; null leaves it to the cluster."""
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 365)]
    """The job's time limit. A number: YAML would take 24:00:00 for text or for something else."""
    partition: str | None = None
    """Instead of the profile's; so are the next three."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None

    @model_validator(mode="after")
    def _one_task_per_gpu(self) -> Self:
        if self.gpus_per_node and "tasks_per_node" in self.model_fields_set:
            raise ValueError(
                f"tasks_per_node: must be left out where there are GPUs, each of which gets one process "
                f"(given tasks_per_node {self.tasks_per_node}, gpus_per_node {self.gpus_per_node})"
            )
        return self

    @property
    def node_tasks(self) -> int:
        """Processes of a node."""
        return self.gpus_per_node or self.tasks_per_node

    @property
    def tasks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.node_tasks

    def describe(self) -> str:
        """`8 nodes x 8 GPUs`, `1 node x 2 tasks`."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        noun = "GPU" if self.gpus_per_node else "task"
        return f"{nodes} x {self.node_tasks} {noun}" + ("" if self.node_tasks == 1 else "s")


class StageShapes(Section):
    """A shape for every stage."""

    prepare: Shape
    build: Shape
    train: Shape
    freeze_bn: Shape
    evaluate: Shape
    fuse: Shape
    report: Shape


class Profile(Section):
    """A cluster, as a run sees it."""

    partition: str | None = None
    """null: the cluster's default; so for the next three."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: Names = ()
    """Lines of bash that run on each job's first node before anything else: `module load ...`, `source ...`."""
    container: Names = ()
    """Words in front of every Python command: [apptainer, exec, --nv, image.sif]."""
    python: str | None = None
    """The Python to run; null takes the one that runs `submit`."""
    warning_seconds: Annotated[int, Field(ge=10, le=65535)] = 300
    """How long before its time limit a job is asked to save and to go on later (sbatch --signal)."""
    requeue_on_failure: Natural = 0
    """How many times a job that crashed (exit code 1) is started again; a wrong config or wrong data never is."""
    stages: StageShapes

    @model_validator(mode="after")
    def _time_for_the_warning(self) -> Self:
        problems = [
            f"stages.{name}.minutes: must be more than the warning before the end and the minute by which SLURM may "
            f"warn too early (given {shape.minutes} min = {60 * shape.minutes} s, warning_seconds "
            f"{self.warning_seconds})"
            for name, shape in self.shapes().items()
            if 60 * shape.minutes <= self.warning_seconds + _WARNING_MAY_BE_OFF_BY_SECONDS
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def shapes(self) -> dict[str, Shape]:
        """The shapes by stage; what a stage leaves out of where it runs is the profile's."""
        places = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint")}
        return {
            name: shape.model_copy(update={key: value for key, value in places.items() if getattr(shape, key) is None})
            for name, shape in dict(self.stages).items()
        }


def load_profile(path: Path) -> Profile:
    """The profile in the file; UserError with every mistake, each as `file:line: key: what must hold (given ...)`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        there = ", ".join(str(file) for file in sorted(path.parent.glob("*.yaml")))
        raise UserError(
            f"--profile: {path}: cannot be read ({error.strerror})" + (f"; there are: {there}" if there else "")
        ) from error
    document = decode_document(content, str(path))
    if document.root is None or not isinstance(document.root.value, dict):
        given = "an empty file" if document.root is None else document.root.text
        raise UserError(f"{path}:1: a profile must be `key: value` lines (given {given})")
    root = Entry(document.root.value, Place(str(path), 1), document.root.text)
    root, unknown = take_out_unknown_keys(root, Profile)
    problems = document.problems + unknown
    try:
        profile = Profile.model_validate(root.plain())
    except ValidationError as error:
        known = {(problem.place, problem.key) for problem in problems}
        found = explain(error, root, Profile)
        problems += [problem for problem in found if (problem.place, problem.key) not in known]
    if problems:
        raise UserError("\n".join(str(problem) for problem in in_order(problems, [str(path)])))
    return profile
