"""A process pool whose workers ignore signals and exit with their parent."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import errno
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.synchronize import Event
from typing import Generic, TypeVar

from pipeline.ground.errors import UserError
from pipeline.ground.stop import StopFlag

Task = TypeVar("Task")

_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Linux limits the path of a socket to 107 bytes."""
_stopping: Event | None = None


class WorkerDied(Exception, Generic[Task]):
    """A worker was killed; `tasks` are those that it was doing or had next."""

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__("a worker process died")
        self.tasks = tasks


def run_in_processes(
    work: Callable[[Task], None], tasks: Sequence[Task], stop: StopFlag, num_workers: int
) -> Iterator[Task]:
    """Do `work` on every task and yield each as it finishes, in no order.

    Ends early if a stop is requested: tasks that have not begun are dropped, and running ones are waited for; a long
    one checks `is_stopping` now and then, and its exceptions are dropped. Otherwise exceptions of a task are raised
    here. Raises WorkerDied if a process was killed, UserError if the machine has no room for semaphores.
    """
    num_workers = max(1, min(num_workers, len(tasks)))
    # Not forked from here: the caller may have threads, and a forked worker would inherit their locks.
    context = multiprocessing.get_context("forkserver")
    _choose_socket_folder()
    try:
        stopping = context.Event()
        executor = concurrent.futures.ProcessPoolExecutor(num_workers, context, _prepare_worker, (stopping,))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise UserError(
            f"/dev/shm: no semaphore for the worker processes can be made there ({error.strerror}); it must be "
            "mounted, writable and not full (df /dev/shm); a container gets more of it by docker run --shm-size=1g, or "
            "the machine's own by apptainer exec --bind /dev/shm"
        ) from error
    waiting: dict[concurrent.futures.Future[None], Task] = {}
    try:
        waiting = {executor.submit(work, task): task for task in tasks}
        while waiting:
            finished, _ = concurrent.futures.wait(waiting, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED)
            if stop.is_set:
                return
            for future in finished:
                future.result()
                yield waiting.pop(future)
    except concurrent.futures.process.BrokenProcessPool as error:
        if not stop.is_set:
            raise WorkerDied(list(waiting.values())[:num_workers]) from error
    finally:
        stopping.set()
        executor.shutdown(cancel_futures=True)


def _choose_socket_folder() -> None:
    """Have multiprocessing, which keeps the folder that it has first made, make its sockets in /tmp if TMPDIR is too
    long."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"
        multiprocessing.util.get_temp_dir()
        tempfile.tempdir = folder


def is_stopping() -> bool:
    """In a worker: return whether the parent only waits for this task to end."""
    return _stopping is not None and _stopping.is_set()


def _prepare_worker(stopping: Event) -> None:
    """Leave signals to the parent, which stops between tasks, and end with it however it ends."""
    global _stopping
    _stopping = stopping
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
