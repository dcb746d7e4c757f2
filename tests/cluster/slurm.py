"""A real Slurm on this machine alone: controller, nodes and munge in a directory and on ports of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Five seconds is the least that Slurm takes; a job that is requeued waits until its old credential has expired.
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
# Whoever is told to end may take its time: on a busy machine nothing here may depend on speed.
KillWait=120
MessageTimeout=60
SlurmctldTimeout=30
SlurmdTimeout=15
# The tests ask about jobs long after their end.
MinJobAge=86400
{gres}{nodes}PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_SECONDS_TO_END = 5
"""What all daemons together are given to end by themselves."""


def why_unavailable() -> str | None:
    """What is missing for a Slurm here, in one line; None where nothing is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"a real Slurm needs {', '.join(missing)}, not found here (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a real Slurm is started as root, and this user is not"


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as the controller knows it."""

    state: str
    restarts: int
    reason: str


class Cluster:
    """Nodes n1, n2, ... that all are this machine, each with its name as a feature that `constraint` can ask for.
    What was started, and nothing else, ends with `stop`."""

    def __init__(self, directory: Path, nodes: int, cpus: int, gpus: int = 0) -> None:
        self.directory = directory
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._conf = directory / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._disks: list[Path] = []
        self._write_configuration(cpus, gpus)

    @property
    def environment(self) -> dict[str, str]:
        """For everything that shall talk to this cluster and no other."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        if own.pop("PYTHONDONTWRITEBYTECODE", ""):
            # Else every process of every job compiles all of torch anew, which takes longer than what it does then.
            own["PYTHONPYCACHEPREFIX"] = str(self.directory / "bytecode")
        return {**own, "SLURM_CONF": str(self._conf)}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        munge = self.directory / "munge"
        files = {name: f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")}
        self._start_daemon(
            "munged", ["munged", "--foreground", "--force", f"--socket={self.directory}/munge.socket", *files.values()]
        )
        wait_until(lambda: (self.directory / "munge.socket").exists(), 300, "munged's socket")
        self._start_daemon("slurmctld", ["slurmctld", "-D", "-c", "-f", str(self._conf)])
        for node in self.nodes:
            self.start_node(node)
        wait_until(lambda: self._idle_nodes() == set(self.nodes), 300, f"idle nodes (logs: {self.directory})")

    def stop(self) -> None:
        """Cancel what is queued, end the daemons, and kill what is left of them."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.command("scancel", "--full", *self._jobs())
        for process in reversed(self._daemons.values()):
            process.terminate()
        deadline = time.monotonic() + _SECONDS_TO_END
        for process in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._daemons.values():
            process.wait()
        for path in self._disks:
            subprocess.run(["umount", "--lazy", str(path)], check=False)

    def mount_disk(self, path: Path, size: str) -> None:
        """Make the folder a disk of its own, as small as `8m`, for as long as the cluster runs."""
        path.mkdir(exist_ok=True)
        self.command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
        self._disks.append(path)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start_daemon(node, ["slurmd", "-D", "-f", str(self._conf), "-N", node])

    def kill_node(self, node: str) -> None:
        """End everything on a node at once, as a power cut does: its daemon, its job steps, their processes."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        tasks = self._processes(SLURMD_NODENAME=node)
        # The steps' own daemons first: they would report to the others that their tasks were killed.
        for pid in [*_step_daemons(tasks), *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands; returns what it prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise OSError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def job(self, job_id: str) -> Job:
        """What the controller says of a job."""
        fields = dict(
            word.split("=", 1) for word in self.command("scontrol", "show", "job", job_id).split() if "=" in word
        )
        return Job(fields["JobState"], int(fields["Restarts"]), fields["Reason"])

    def pids_of(self, job_id: str, variables: Mapping[str, str]) -> list[int]:
        """Processes of a job whose environment has these variables, as SLURM_PROCID=1."""
        array, _, task = job_id.partition("_")
        job = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {"SLURM_JOB_ID": job_id}
        return self._processes(**job, **variables)

    def _jobs(self) -> list[str]:
        return self.command("squeue", "--noheader", "--format=%i").split()

    def _idle_nodes(self) -> set[str]:
        try:
            return set(self.command("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())
        except OSError:  # the controller does not answer yet
            return set()

    def _start_daemon(self, name: str, command: Sequence[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _processes(self, **variables: str) -> list[int]:
        """Live processes started by this cluster: they and no others have its configuration in their environment."""
        wanted = {"SLURM_CONF": str(self._conf), **variables}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if all(f"{name}={value}".encode() in environment for name, value in wanted.items()):
                        found.append(int(entry.name))
        return found

    def _write_configuration(self, cpus: int, gpus: int) -> None:
        for name in ("munge", "state", *self.nodes):
            (self.directory / name).mkdir()
        (self.directory / "munge" / "key").write_bytes(os.urandom(1024))
        (self.directory / "munge" / "key").chmod(0o600)
        host = socket.gethostname().partition(".")[0]
        with _free_ports(1 + len(self.nodes)) as ports:
            lines = [
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=300000"
                f" Features={node}" + (f" Gres=gpu:{gpus}" if gpus else "") + "\n"
                for node, port in zip(self.nodes, ports[1:], strict=True)
            ]
            gres = "GresTypes=gpu\n" if gpus else ""
            text = _CONF.format(
                host=host,
                port=ports[0],
                directory=self.directory,
                gres=gres,
                nodes="".join(lines),
                partition="gpu" if gpus else "main",
            )
            self._conf.write_text(text)
        if gpus:
            for number in range(gpus):
                # Slurm insists on a device, and takes the GPU's number from the name.
                (self.directory / f"gpu{number}").symlink_to("/dev/null")
            (self.directory / "gres.conf").write_text(f"Name=gpu File={self.directory}/gpu[0-{gpus - 1}]\n")


def _step_daemons(tasks: Sequence[int]) -> set[int]:
    """The slurmstepd processes that have started these tasks."""
    found = set()
    for pid in tasks:
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                found.add(parent)
    return found


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody uses, held until the block ends so that each is another one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll until the condition holds; returns the Unix time when it was seen to. TimeoutError names what never came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seconds:.0f} s went by without: {what}")
        time.sleep(0.2)
    return time.time()
