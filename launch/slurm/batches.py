"""What is queued for one run or the members of a sweep: a job or a job array for each stage and what it waits for.

One key is one job: members whose stage has the same key wait for the same one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from launch.slurm.submission import Submission
from stages import STAGES


@dataclasses.dataclass(frozen=True)
class Wait:
    """A dependency of all tasks of a batch."""

    batch: int | None
    """Position of an earlier batch; None for a job that is queued already."""
    task: int | None = None
    """The one task that is waited for; None: each task waits for that of its own number."""
    job: str = ""
    """Id of a job that is queued already."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """A job, or the tasks of a job array, of one stage."""

    stage: str
    numbers: tuple[int, ...]
    """Tasks: the numbers of the first members with their keys, whose runs they work for."""
    waits: tuple[Wait, ...]

    @property
    def is_array(self) -> bool:
        """Whether it has several tasks."""
        return len(self.numbers) > 1


def plan_batches(members: Sequence[Submission]) -> list[Batch]:
    """Return the batches of all missing stages, each after those that it waits for.

    The tasks of a stage are one array as long as all wait for the same job, or each for the task of its own number;
    otherwise those with the same dependencies are.
    """
    batches: list[Batch] = []
    homes: dict[tuple[str, str], tuple[int, int]] = {}
    """Batch and task by stage and key."""
    numbers: dict[str, list[int]] = {}
    """All tasks of a stage."""
    for name in (stage.name for stage in STAGES):
        tasks: dict[str, int] = {}
        for number, member in enumerate(members):
            if name in member.missing:
                tasks.setdefault(member.placed[name].key, number)
        numbers[name] = list(tasks.values())
        groups: dict[tuple[Wait, ...], list[int]] = {}
        for number in tasks.values():
            member, waits = members[number], list[Wait]()
            for before in member.placed[name].inputs:
                batch, task = homes.get((before, member.placed[before].key), (None, None))
                if batch is not None:
                    waits.append(Wait(batch, None if numbers[before] == numbers[name] else task))
                elif before in member.alive:
                    waits.append(Wait(None, job=member.alive[before].job))
            groups.setdefault(tuple(waits), []).append(number)
        for shared_waits, group in groups.items():
            homes |= {(name, members[number].placed[name].key): (len(batches), number) for number in group}
            batches.append(Batch(name, tuple(group), shared_waits))
    return batches


def dependencies(batch: Batch, batches: Sequence[Batch], ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return ids of the jobs that must end well, and of the arrays whose tasks of the same number must."""
    all_of, task_by_task = [], []
    for wait in batch.waits:
        if wait.batch is not None and wait.task is None and batches[wait.batch].is_array and batch.is_array:
            task_by_task.append(ids[wait.batch])
        else:
            all_of.append(_id_of(wait, batches, ids, batch.numbers[0]))
    return all_of, task_by_task


def waited_for(batch: Batch, batches: Sequence[Batch], ids: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the ids of the jobs and tasks that one task waits for."""
    return tuple(_id_of(wait, batches, ids, number) for wait in batch.waits)


def job_id(batch: Batch, submitted: str, number: int) -> str:
    """Return the id of a batch's task: `12_3`, or of a single job `12`."""
    return f"{submitted}_{number}" if batch.is_array else submitted


def _id_of(wait: Wait, batches: Sequence[Batch], ids: Sequence[str], number: int) -> str:
    """Return the id of the job or task that the task of this number waits for."""
    if wait.batch is None:
        return wait.job
    return job_id(batches[wait.batch], ids[wait.batch], number if wait.task is None else wait.task)
