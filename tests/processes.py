"""Real stage processes for tests: forked from a server that has imported torch and DALI once, so that a attempt costs
milliseconds instead of seconds to start, and killed with real signals."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from pipeline.config.reader import read_run_config


def fork_context() -> ForkServerContext:
    """The server is started once a test session, on first use."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_stage(
    run: Path,
    stage: str,
    world_size: int = 1,
    overrides: tuple[str, ...] = (),
    ranks: Sequence[int] | None = None,
) -> list[ForkServerProcess]:
    """Start the stage's processes, those of all ranks or of some, and return at once."""
    port = free_port()
    processes = [
        fork_context().Process(target=_live, args=(run, stage, rank, world_size, port, overrides))
        for rank in (range(world_size) if ranks is None else ranks)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[ForkServerProcess], timeout: float = 120) -> list[int | None]:
    """Wait for all of them; returns their exit codes (negative: killed by that signal)."""
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def run_stage_to_end(run: Path, stage: str, world_size: int = 1, overrides: tuple[str, ...] = ()) -> None:
    """Run the stage and insist that it is done."""
    codes = finish(start_stage(run, stage, world_size, overrides))
    assert codes == [0] * world_size, f"{stage} ended with {codes}"


def _live(run: Path, stage: str, rank: int, world_size: int, port: int, overrides: tuple[str, ...]) -> None:
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    from pipeline.running.runner import run_stage
    from stages import STAGES

    # Without os._exit the fork server's own clean-up would replace the stage's exit code.
    os._exit(run_stage(stage, read_run_config(run, overrides), run, STAGES))
