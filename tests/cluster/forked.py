"""A Python for a profile whose stage processes are forked from one that has torch and DALI imported already.

Each process of torch's build for CUDA has 400 MB of memory of its own before it does anything; forked ones share that,
so that 64 fit into one machine. What SLURM starts is a small process that hands its environment and output to the
server, passes signals on, and ends with the code of the stage.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

_CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
words = sys.argv[1:]
if words[:3] != ["-P", "-m", "stages"]:
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps({{"words": words[2:], "environment": dict(os.environ), "folder": os.getcwd()}}).encode()
socket.send_fds(server, [len(request).to_bytes(4, "big")], [1, 2])
server.sendall(request)
answers = server.makefile()
stage = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.kill(stage, number))
sys.exit(int(answers.readline() or 1))
"""


@contextlib.contextmanager
def forking_python(folder: Path) -> Iterator[str]:
    """The path of such a Python, for as long as its server runs."""
    address, client = str(folder / "fork.socket"), folder / "forked-python"
    client.write_text(_CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    server = subprocess.Popen([sys.executable, "-m", "tests.cluster.forked", address], cwd=REPOSITORY)
    try:
        while not Path(address).exists():
            assert server.poll() is None, "the fork server has ended"
            time.sleep(0.1)
        yield str(client)
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    """Fork a stage for each connection, for ever."""
    import tests.preloaded  # noqa: F401

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen(128)
        os.rename(f"{address}.new", address)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(_become_stage(connection))
            connection.close()


def _become_stage(connection: socket.socket) -> int:
    size, outputs, _, _ = socket.recv_fds(connection, 4, 2)
    request = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    connection.sendall(f"{os.getpid()}\n".encode())
    sys.argv = request["words"]
    from pipeline.running.command import main
    from stages import STAGES

    code = main(STAGES)
    sys.stdout.flush()
    connection.sendall(f"{code}\n".encode())
    return code


if __name__ == "__main__":
    _serve(sys.argv[1])
