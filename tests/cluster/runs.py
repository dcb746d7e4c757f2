"""A run on the test's Slurm: its recipe and profile, the commands a person would type, and what its files tell."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launch.slurm.job_attempts import JobAttempt, read_job_attempts
from pipeline.config.reader import RUN_CONFIG, read_run_config, write_run_config
from pipeline.config.schema import Config
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.seal import SEAL, Seal, read_seal
from pipeline.tracking.events import read_events
from stages import STAGES
from tests.cluster.slurm import Cluster, Job, wait_until
from tests.conftest import REPOSITORY

PATIENCE = 900
"""Seconds for anything that may take its time where other work keeps the machine busy; no test depends on its speed."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    output: str


class ClusterRun:
    """One run directory, its recipe beside it."""

    def __init__(self, cluster: Cluster, directory: Path, config: Config, **keys: Any) -> None:
        """`keys` are those of the profile, see `with_profile`."""
        self.cluster = cluster
        self.directory = directory / "run"
        self.recipe = directory / "recipe" / "config.yaml"
        self.profile = directory / "profile.yaml"
        self.variables: dict[str, str] = {}
        """Of the environment of all that is launched, jobs included."""
        self.recipe.parent.mkdir(parents=True)
        write_run_config(self.recipe.parent, config)
        self._keys: dict[str, Any] = {}
        self.with_profile(**keys)

    def with_profile(self, **keys: Any) -> ClusterRun:
        """The same run, submitted from now on with these keys of the profile replaced."""
        self._keys |= keys
        self.profile.write_text(json.dumps(profile(**self._keys)))
        return self

    def member(self, name: str) -> ClusterRun:
        """The run of a sweep's member, of which this is the folder."""
        member = copy.copy(self)
        member.directory = self.directory / name
        return member

    def start(self, *words: str | Path) -> Callable[[], Answer]:
        """Start `python -m launch WORDS`; the function returned waits for its end."""
        with tempfile.NamedTemporaryFile(dir=self.profile.parent, delete=False) as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "launch", *map(str, words)],
                cwd=REPOSITORY,
                env={**self.cluster.environment, "OMP_NUM_THREADS": "1", **self.variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return lambda: Answer(process.wait(PATIENCE), Path(output.name).read_text())

    def launch(self, *words: str | Path) -> Answer:
        """`python -m launch WORDS`, to its end."""
        return self.start(*words)()

    def submit(self, *words: str) -> Answer:
        """`launch submit` with this run's recipe, directory and profile, and whatever else is given."""
        return self.launch("submit", self.recipe, "--profile", self.profile, "--run", self.directory, *words)

    def status(self) -> str:
        """What `launch status` prints."""
        return self.launch("status", self.directory).output

    def stages(self) -> Mapping[str, PlacedStage]:
        """The placed stages, once the run is submitted."""
        return _placed(self.directory, (self.directory / RUN_CONFIG).read_text())

    def stage(self, name: str) -> PlacedStage:
        """One of them."""
        return self.stages()[name]

    def stages_behind(self, name: str) -> list[str]:
        """The stages that read this one, directly or through others, in order."""
        behind = {name}
        for other, stage in self.stages().items():
            behind |= {other} if behind & set(stage.inputs) else set()
        return [other for other in self.stages() if other in behind - {name}]

    def _record(self, stage: str) -> dict[str, Any]:
        """The newest job of a stage."""
        jobs = json.loads((self.directory / "jobs.json").read_text())
        return next(job for job in reversed(jobs) if job["stage"] == stage)

    def job_id(self, stage: str) -> str:
        """Of the newest job of a stage."""
        return str(self._record(stage)["job"])

    def job(self, stage: str) -> Job:
        """What Slurm says of it."""
        return self.cluster.job(self.job_id(stage))

    def wait_for_state(self, stage: str, *states: str) -> float:
        """Until the stage's job is in one of these states."""
        return self._wait(stage, lambda: self.job(stage).state in states, " or ".join(states))

    def wait_for_restart(self, stage: str, number: int) -> float:
        """Until the stage's job is queued for its attempt after `number` restarts."""
        return self._wait(stage, lambda: self.job(stage).restarts >= number, f"restart {number}")

    def _wait(self, stage: str, condition: Callable[[], bool], what: str) -> float:
        """Until the condition holds; AssertionError with the job's log where the job has ended and it does not."""
        asked = 0.0

        def holds_or_never_will() -> bool:
            nonlocal asked
            has_ended = False
            if time.monotonic() - asked > 2:
                asked = time.monotonic()
                has_ended = self.job(stage).state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            holds = condition()
            assert holds or not has_ended, f"{stage} has ended without {what}:\n{self.log(stage)}"
            return holds

        return wait_until(holds_or_never_will, PATIENCE, f"{what} of {stage}")

    def steps(self, stage: str = "train") -> list[int]:
        """The optimizer steps on record, in their order; the recipes here log each."""
        return [event["global_step"] for event in read_events(self.stage(stage).directory, "train")]

    def wait_for_attempt(self, stage: str, number: int) -> float:
        """Until the stage's job is in this attempt, counted from 1; the Unix time at which its body began."""
        self._wait(stage, lambda: len(self.attempts(stage)) >= number, f"attempt {number}")
        return self.attempts(stage)[number - 1].time

    def attempts(self, stage: str) -> list[JobAttempt]:
        """Those of the stage's newest job."""
        return read_job_attempts(self.stage(stage), self.job_id(stage))

    def wait_for_step_after(self, moment: float, count: int = 1) -> float:
        """Until the train stage has done so many steps since a moment; the Unix time of the first of them.

        The recipe here has 50: whoever waits for a few has time left before training ends.
        """
        directory = self.stage("train").directory

        def times() -> list[float]:
            return [event["time"] for event in read_events(directory, "train") if event["time"] > moment]

        self._wait("train", lambda: len(times()) >= count, f"{count} steps after {moment}")
        return times()[0]

    def wait_for_ending(self, stage: str, number: int) -> None:
        """Until this attempt of the stage's job, counted from 1, has said how it ended."""
        self._wait(stage, lambda: self.attempts(stage)[number - 1].ending is not None, f"an end of attempt {number}")

    def saved_step(self) -> int:
        """The step of the newest checkpoint of the train stage."""
        seals = self.stage("train").directory.glob(f"checkpoints/step-*/{SEAL}")
        return max(int(seal.parent.name.removeprefix("step-")) for seal in seals)

    def rank_zero(self, stage: str) -> int:
        """The process of the stage's first task."""
        found: list[int] = []

        def look() -> bool:
            found[:] = self.cluster.pids_of(self.job_id(stage), {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"})
            return bool(found)

        self._wait(stage, look, "a first process")
        return min(found)

    @contextlib.contextmanager
    def held(self, stage: str) -> Iterator[None]:
        """Keep the stage's first process, and with it all others, from going on meanwhile."""
        process = self.rank_zero(stage)
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def seal(self, stage: str) -> Seal:
        """Of a finished stage that has one part."""
        (part,) = self.stage(stage).parts
        seal = read_seal(part.directory, "stage")
        assert seal is not None, f"{stage} is not done:\n{self.status()}\n{self.log(stage)}"
        return seal

    def log(self, stage: str) -> str:
        """All that the stage's newest job has printed."""
        return self.log_path(stage).read_text()

    def log_path(self, stage: str) -> Path:
        """Where it prints."""
        return Path(self._record(stage)["log"])


@functools.cache
def _placed(directory: Path, config: str) -> Mapping[str, PlacedStage]:
    """The stages of a run whose config has this text."""
    return place_stages(read_run_config(directory), directory, STAGES)


def profile(nodes: int = 1, tasks: int = 1, memory_gb: int | None = None, **keys: Any) -> dict[str, Any]:
    """A profile for the test's Slurm: training has `nodes` nodes of `tasks` processes, evaluation one on each."""
    shapes = {
        "train": {"nodes": nodes, "tasks_per_node": tasks, "memory_gb": memory_gb, "minutes": 60},
        "evaluate": {"nodes": nodes, "minutes": 60},
    }
    return {"warning_seconds": 30, "partition": "main", **keys, "stages": shapes}
