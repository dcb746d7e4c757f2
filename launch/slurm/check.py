"""Try a profile in a job of two minutes: measure devices, network and file system of the nodes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from launch.console import say, show, table
from launch.slurm import scheduler
from launch.slurm.jobs import log_path, write_script
from launch.slurm.profile import TRAINING, load_profile, naming_line
from launch.slurm.script import JobScript, render
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, UserError
from pipeline.store.journal import read_journal

_MINUTES = 2
_POLL_SECONDS = 2.0
_SHOWN_LINES = 20
_CHECK = "check"


def check_profile_on_cluster(path: Path, directory: Path) -> int:
    """Run the measurements as the profile's training job, in `directory`, and print them.

    Returns 0 if training can run there, 1 if something that it needs is missing.
    """
    profile, directory = load_profile(path), directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    shape = profile.shapes()[TRAINING].model_copy(update={"minutes": _MINUTES})
    script = JobScript(
        stage=_CHECK,
        key="",
        run=directory,
        log=log_path(directory, _CHECK, "cluster"),
        directory=Path.cwd(),
        shape=shape,
        setup=profile.setup,
        python=profile.python_words,
        warning_seconds=0,
        requeue_on_failure=0,
    )
    with naming_line(path, TRAINING):
        job = scheduler.submit(write_script(directory, _CHECK, render(script, _CHECK)), [])
    say(f"job {job}: {shape.describe()}, {_MINUTES} minutes at most once it runs; Ctrl-C cancels it")
    try:
        state = _wait_for_end(job)
    except BaseException:  # Ctrl-C, or a scheduler that does not answer
        with contextlib.suppress(UserError):
            scheduler.cancel([job])
        raise
    findings = list(read_journal(directory / f"findings-{job}.jsonl"))
    rows = table("", "found", "verdict")
    for finding in findings:
        rows.add_row(finding["subject"], finding["found"], finding["verdict"])
    show(rows)
    log = Path(str(script.log).replace("%j", job))
    if state != "COMPLETED":
        say(f"\nthe job ended as {state} before everything was measured; the end of {log}:")
        say("\n".join(log.read_text().splitlines()[-_SHOWN_LINES:]) if log.exists() else "(nothing was printed)")
    is_good = state == "COMPLETED" and all(finding["verdict"] != "missing" for finding in findings)
    return EXIT_DONE if is_good else EXIT_FAILED


def _wait_for_end(job: str) -> str:
    """Print each change of the job's state until its end. Returns the last state."""
    shown = ""
    while (found := scheduler.look_up([job]).get(job)) is not None and found.is_alive:
        text = f"{found.state.lower()} {found.nodes or found.reason}".strip()
        if text != shown:
            say(text)
            shown = text
        time.sleep(_POLL_SECONDS)
    return "unknown to SLURM" if found is None else found.state
