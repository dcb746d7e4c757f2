"""Profiles: the resources of each stage's job on a cluster."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, create_model, model_validator

from launch.slurm.scheduler import JobRefused
from pipeline.config.document import read_document
from pipeline.config.problems import validated
from pipeline.config.section import Names, Natural, PositiveInt, Section
from pipeline.ground.errors import UserError
from pipeline.running.stage import Stage
from stages import STAGES

_WARNING_MAY_BE_OFF_BY_SECONDS = 60
"""sbatch(1) on --signal: "may be sent up to 60 seconds earlier than specified"."""


class Shape(Section):
    """Resources of one stage's job."""

    nodes: PositiveInt = 1
    gpus_per_node: Natural = 0
    """GPUs, and so tasks, of a node: one process per GPU. 0: a job without GPUs."""
    tasks_per_node: PositiveInt = 1
    """Processes of a node without GPUs; must be left out if there are GPUs."""
    cpus_per_task: PositiveInt = 1
    """Cores of each process: the training itself and its decoding threads."""
    memory_gb: PositiveInt | None = None
    """Memory of each node; null: the cluster's default."""
    minutes: Annotated[int, Field(ge=1, le=60 * 24 * 365)]
    """The job's time limit. A number: YAML would take 24:00:00 for text or for something else."""
    partition: str | None = None
    """Partition instead of the profile's; so are the next three."""
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
        """Describe the size as `8 nodes x 8 GPUs` or `1 node x 2 tasks`."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        noun = "GPU" if self.gpus_per_node else "task"
        return f"{nodes} x {self.node_tasks} {noun}" + ("" if self.node_tasks == 1 else "s")


TRAINING = next(stage.name for stage in STAGES if stage.is_training)
"""The one stage that a profile must name: stages declared to run as training does get the same resources."""

if TYPE_CHECKING:
    StageShapes = Section
else:
    StageShapes = create_model(
        "StageShapes",
        __base__=Section,
        **{stage.name: (Shape, ...) if stage.name == TRAINING else (Shape | None, None) for stage in STAGES},
    )


class Profile(Section):
    """A cluster and a run's resources on it."""

    partition: str | None = None
    """null: the cluster's default; so for the next three."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: Names = ()
    """Lines of bash that run on each job's first node before anything else: `module load ...`, `source ...`. One that
    fails ends the job."""
    container: Names = ()
    """Words in front of every Python command: [apptainer, exec, --nv, image.sif]."""
    python: str | None = None
    """The Python to run; null: the one that runs `submit`."""
    warning_seconds: Annotated[int, Field(ge=10, le=65535)] = 300
    """Time between the request to save and requeue, and the job's time limit (sbatch --signal)."""
    requeue_on_failure: Natural = 0
    """Number of restarts after a crash (exit code 1); a wrong config or wrong data is never restarted."""
    stages: StageShapes
    """Resources of each stage's job; the declaration's if a stage is left out."""

    @model_validator(mode="after")
    def _time_for_the_warning(self) -> Self:
        problems = [
            f"stages.{name}.minutes: must be more than the warning before the end and the minute by which SLURM may "
            f"warn too early (given {shape.minutes} min = {60 * shape.minutes} s, warning_seconds "
            f"{self.warning_seconds})"
            for name, shape in self._named().items()
            if not self._leaves_time(shape.minutes)
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def python_words(self) -> tuple[str, ...]:
        """The words that start Python, container included."""
        return (*self.container, self.python or sys.executable)

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every stage; its unset fields are the profile's."""
        places = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint")}
        named = self._named()
        shapes = {stage.name: named.get(stage.name) or self._default(stage) for stage in STAGES}
        return {
            name: shape.model_copy(update={key: value for key, value in places.items() if getattr(shape, key) is None})
            for name, shape in shapes.items()
        }

    def _named(self) -> dict[str, Shape]:
        return {name: shape for name, shape in self.stages if shape is not None}

    def _default(self, stage: Stage) -> Shape:
        """Return the shape of a stage's declaration, within the longest time limit in the profile.

        The cluster may refuse a longer one.
        """
        longest = max(shape.minutes for shape in self._named().values())
        minutes = min(stage.shape.minutes, longest)
        minutes = minutes if self._leaves_time(minutes) else longest
        if stage.shape.processes == "one":
            return Shape(minutes=minutes)
        return self._named()[TRAINING].model_copy(update={"minutes": minutes})

    def _leaves_time(self, minutes: int) -> bool:
        """Return whether a job of so many minutes has any left before its warning."""
        return 60 * minutes > self.warning_seconds + _WARNING_MAY_BE_OFF_BY_SECONDS


def load_profile(path: Path) -> Profile:
    """Read the profile in the file.

    Raises UserError with every mistake, each as `file:line: key: what must hold (given ...)`.
    """
    document = read_document(path, "profile", "--profile: ")
    return validated(Profile, document.root, document.problems)


@contextlib.contextmanager
def naming_line(path: Path, stage: str) -> Iterator[None]:
    """Put the line of the profile in `path` before SLURM's refusal of a stage's job: that of the field that its words
    name, or else that of the stage."""
    try:
        yield
    except JobRefused as error:
        root = read_document(path, "profile").root
        own = root.value["stages"].value.get(stage, root.value["stages"])
        key, entry, given = f"stages.{stage}", own, ""
        for name in ("partition", "account", "qos", "constraint"):
            fields = own.value if isinstance(own.value, dict) and name in own.value else root.value
            if name in str(error).lower():
                key, entry = name, fields.get(name, root)
                given = f" (given {entry.text})" if name in fields else " (not given)"
        raise UserError(f"{entry.place}: {key}: SLURM refuses the job of {stage}{given}: {error}") from error
