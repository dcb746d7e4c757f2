"""Two machines in one: network, host name and /etc/hosts of their own, joined by a cable."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HOSTS = ("n1", "n2")
_PREFIX = "10.77.0."


def why_unavailable() -> str | None:
    """The reason why this machine cannot make them, or None."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"network namespaces need {', '.join(missing)}"
    if os.geteuid() != 0:
        return "network namespaces are made as root, and this user is not"
    allowed = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True).returncode == 0
    return None if allowed else "this machine does not allow network namespaces"


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Sequence[Sequence[str]]]:
    """Words in front of a command that run it on the first or the second host.

    As Debian and Ubuntu set it up, each host's own name resolves to 127.0.1.1 on it.
    """
    with contextlib.ExitStack() as stack:
        keepers = [stack.enter_context(_namespaces(name)) for name in HOSTS]
        ends = [["name", "cable", "netns", str(keeper.pid)] for keeper in keepers]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        inside = [["nsenter", f"--target={keeper.pid}", "--net", "--uts", "--mount"] for keeper in keepers]
        for number, words in enumerate(inside):
            other = 1 - number
            hosts = folder / f"hosts-{HOSTS[number]}"
            lines = ["127.0.0.1 localhost", f"127.0.1.1 {HOSTS[number]}", f"{_PREFIX}{other + 1} {HOSTS[other]}"]
            hosts.write_text("\n".join(lines) + "\n")
            setup = (
                f"ip addr add {_PREFIX}{number + 1}/24 dev cable && ip link set cable up && "
                f"mount --bind '{hosts}' /etc/hosts"
            )
            subprocess.run([*words, "sh", "-c", setup], check=True)
        yield inside


def run_ranks(hosts: Sequence[Sequence[str]], script: str, variables: Mapping[str, str]) -> list[tuple[int, str]]:
    """Run a Python script as one rank on each host. Returns exit code and stdout of each."""
    ranks = [
        subprocess.Popen(
            [*words, sys.executable, "-c", script],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(hosts)), **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(hosts)
    ]
    try:
        return [(process.wait(120), process.communicate()[0]) for process in ranks]
    finally:
        for process in ranks:
            process.kill()


@contextlib.contextmanager
def _namespaces(host: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps the namespaces of a host."""
    start = f"hostname {host} && ip link set lo up && echo ready && exec sleep infinity"
    keeper = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sh", "-c", start], stdout=subprocess.PIPE)
    assert keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == b"ready\n"
        yield keeper
    finally:
        keeper.kill()
        keeper.wait()
