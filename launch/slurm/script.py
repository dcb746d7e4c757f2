"""The job script of a stage: pure functions from what is wanted to the text that sbatch gets."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from launch.slurm.profile import Shape
from pipeline.errors import UserError

SOURCE = Path(__file__).parents[2]
"""The checkout: where the packages and slurm/ are."""
_TEMPLATE = SOURCE / "slurm" / "stage.sbatch"
_EXPORTED_PREFIX = "SENET154_"


@dataclasses.dataclass(frozen=True)
class JobScript:
    """All that one stage's job depends on. Which jobs it waits for is said to sbatch beside the script."""

    stage: str
    key: str
    run: Path
    """Absolute; jobs run in `directory`."""
    log: Path
    """Absolute; `%j` in its name stands for the job id."""
    directory: Path
    """Where `submit` ran: relative paths in the recipe start there."""
    shape: Shape
    setup: tuple[str, ...]
    python: tuple[str, ...]
    """The words that start Python, container included."""
    warning_seconds: int
    requeue_on_failure: int
    source: Path = SOURCE


def render(job: JobScript, template: str | None = None) -> str:
    """The whole script: slurm/stage.sbatch with its three places filled in. UserError where a path cannot be quoted."""
    text = _TEMPLATE.read_text() if template is None else template
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
    """sbatch's options by name, in order; None for those without a value."""
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
        "time": shape.minutes,
        "signal": f"B:USR2@{job.warning_seconds}",
    }
    return {name: str(value) for name, value in found.items() if value is not None} | {"requeue": None}


def _option(name: str, value: str | None) -> str:
    """sbatch reads quotes like a shell, except that a backslash needs another one everywhere."""
    if value is None:
        return f"--{name}"
    return f"--{name}={_quoted(value).replace(chr(92), chr(92) * 2)}"


def _settings(job: JobScript) -> Mapping[str, str]:
    """Bash variables of the body, quoted."""
    return {
        "STAGE": _quoted(job.stage),
        "KEY": _quoted(job.key),
        "RUN": _quoted(str(job.run)),
        "SOURCE": _quoted(str(job.source)),
        "PYTHON": f"({' '.join(_quoted(word) for word in job.python)})",
        f"export {_EXPORTED_PREFIX}WARNING_SECONDS": str(job.warning_seconds),
        f"export {_EXPORTED_PREFIX}REQUEUE_ON_FAILURE": str(job.requeue_on_failure),
    }


def _log_pattern(log: Path) -> str:
    """sbatch replaces `%` and a letter in the name; a folder's own percent sign is written twice."""
    return f"{str(log.parent).replace('%', '%%')}/{log.name}"


def _quoted(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise UserError(f"{text!r}: a line break cannot be passed to SLURM; choose another name")
    return shlex.quote(text)
