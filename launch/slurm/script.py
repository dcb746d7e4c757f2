"""The job script of a stage: pure functions from its settings to the text for sbatch."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from launch.slurm.profile import Shape
from pipeline.ground.errors import UserError
from pipeline.ground.interpreter import SOURCE

_EXPORTED_PREFIX = "SENET154_"


@dataclasses.dataclass(frozen=True)
class JobScript:
    """All that one stage's job depends on; the jobs it waits for are options of sbatch."""

    stage: str
    key: str
    run: Path
    """Absolute; jobs run in `directory`."""
    log: Path
    """Absolute; `%j` in its name stands for the job id."""
    directory: Path
    """Working directory of `submit`: relative paths in the recipe start there."""
    shape: Shape
    setup: tuple[str, ...]
    python: tuple[str, ...]
    """The words that start Python, container included."""
    warning_seconds: int
    """0: no warning."""
    requeue_on_failure: int
    source: Path = SOURCE
    tasks: Mapping[int, tuple[Path, str]] = dataclasses.field(default_factory=dict)
    """Tasks of a job array by number, a run and a key each, in place of `run` and `key`."""


def render(job: JobScript, template: str = "stage") -> str:
    """Fill in the three places of a template in this folder. Raises UserError if a name cannot be quoted."""
    text = Path(__file__).with_name(f"{template}.sbatch").read_text()
    setup = ("# Lines of the profile.", *job.setup) if job.setup else ("# The profile has no setup lines.",)
    places = {
        "@OPTIONS@": [f"#SBATCH {_option(name, value)}" for name, value in options(job).items()],
        "@SETTINGS@": [f"{name}={value}" for name, value in _settings(job).items()],
        "@SETUP@": setup,
    }
    lines: list[str] = []
    for line in text.splitlines():
        lines += places.get(line, [line])
    return "\n".join(lines) + "\n"


def options(job: JobScript) -> dict[str, str | None]:
    """Return sbatch's options by name, in order; None for those without a value."""
    shape = job.shape
    found: dict[str, object | None] = {
        "job-name": f"{job.run.name}-{job.stage}",
        "chdir": job.directory,
        "output": _log_pattern(job.log),
        "open-mode": "append",
        "partition": shape.partition,
        "account": shape.account,
        "qos": shape.qos,
        "constraint": shape.constraint,
        "nodes": shape.nodes,
        "ntasks-per-node": shape.node_tasks,
        "cpus-per-task": shape.cpus_per_task,
        "gpus-per-node": shape.gpus_per_node or None,
        "mem": None if shape.memory_gb is None else f"{shape.memory_gb}G",
        "array": ",".join(map(str, job.tasks)) or None,
        "time": shape.minutes,
        "signal": f"B:USR2@{job.warning_seconds}" if job.warning_seconds else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None} | (
        {"requeue": None} if job.warning_seconds else {}  # what would save first
    )


def _option(name: str, value: str | None) -> str:
    """Quote an option: sbatch reads quotes like a shell, except that a backslash needs another one everywhere."""
    if value is None:
        return f"--{name}"
    return f"--{name}={_quoted(value).replace(chr(92), chr(92) * 2)}"


def _settings(job: JobScript) -> Mapping[str, str]:
    """Return the bash variables of the body, quoted."""
    if job.tasks:
        # The index is the array task's number. The job id of an array's last task stands for the whole array.
        which = {
            "JOB": "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
            "RUNS": _by_number({number: str(run) for number, (run, _) in job.tasks.items()}),
            "KEYS": _by_number({number: key for number, (_, key) in job.tasks.items()}),
            "RUN": "${RUNS[$SLURM_ARRAY_TASK_ID]}",
            "KEY": "${KEYS[$SLURM_ARRAY_TASK_ID]}",
        }
    else:
        which = {"JOB": "$SLURM_JOB_ID", "RUN": _quoted(str(job.run)), "KEY": _quoted(job.key)}
    return {
        "STAGE": _quoted(job.stage),
        **which,
        "SOURCE": _quoted(str(job.source)),
        "PYTHON": _list(job.python),
        f"export {_EXPORTED_PREFIX}WARNING_SECONDS": str(job.warning_seconds),
        f"export {_EXPORTED_PREFIX}REQUEUE_ON_FAILURE": str(job.requeue_on_failure),
    }


def _list(words: Iterable[str]) -> str:
    return f"({' '.join(_quoted(word) for word in words)})"


def _by_number(words: Mapping[int, str]) -> str:
    return f"({' '.join(f'[{number}]={_quoted(word)}' for number, word in words.items())})"


def _log_pattern(log: Path) -> str:
    """Escape percent signs of the folder: sbatch replaces `%` and a letter by parts of the job's name."""
    return f"{str(log.parent).replace('%', '%%')}/{log.name}"


def _quoted(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise UserError(f"{text!r}: a line break cannot be passed to SLURM; choose another name")
    return shlex.quote(text)
