"""Rendezvous: the processes of a stage find each other, compare their devices, and try the network between them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed

from pipeline.ground.errors import StartAbandoned, StartFailed
from pipeline.ground.interface import find_interface, read_interfaces
from pipeline.ground.ranks import Ranks
from pipeline.ground.stop import StopFlag

_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_CONNECT_SECONDS = 30
_TELL_SECONDS = 5
_POLL_SECONDS = 0.1
_FAILED, _TOLD = "failed", "told"


@dataclasses.dataclass(frozen=True)
class Peer:
    """A process as the others see it."""

    rank: int
    host: str
    device: str | None
    """UUID of its GPU; None on the CPU."""
    address: str
    """Its own address on the way to the main rank."""
    main_address: str
    """The main rank's address as resolved here."""


class Rendezvous:
    """The start of a stage with several processes, before any library connects them.

    Each wait ends at a request to stop, and after a stated time on every rank. The libraries' own waits do not: gloo's
    main rank is deaf to signals while it waits for a process that has failed to reach it.
    """

    def __init__(self, ranks: Ranks, seconds: int, stop: StopFlag) -> None:
        self._ranks = ranks
        self._seconds = seconds
        self._stop = stop
        self._host, self._port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store: Any = None

    def meet(self, device: str | None) -> Any:
        """Wait for all processes at MASTER_ADDR:MASTER_PORT, and choose gloo's network interface. Returns the store.

        `device` is the UUID of this process's GPU. Raises StartFailed if a process does not arrive in time, if two
        share a GPU or if one cannot connect to the next; StartAbandoned if asked to stop meanwhile, or if the main rank
        ends.
        """
        # torchrun's agent is the server for its workers.
        if self._ranks.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self._open_store(is_server=True)
        address, main_address = self._reach_main_rank()
        if self._store is None:
            self._open_store(is_server=False)
        this = Peer(self._ranks.rank, socket.gethostname(), device, address, main_address)
        with self._main_rank_there(), self._failing_together():
            peers = [Peer(**fields) for fields in self._exchange("peer", dataclasses.asdict(this))]
            check_devices(peers)
            self._connect_to_next(shared_address(this, peers))
        return self._store

    def _connect_to_next(self, address: str) -> None:
        """Choose gloo's network interface unless the user has, and connect to the next rank by it."""
        route = find_interface(address)
        if route is not None:
            os.environ.setdefault(_GLOO_INTERFACE, route)
        elif _GLOO_INTERFACE not in os.environ:
            raise StartFailed(
                f"{self._here()}: {address}, by which the others reach it, is the address of none of its network "
                f"interfaces; name the one that joins the machines: export {_GLOO_INTERFACE}=eth0"
            )
        interface, there = os.environ.get(_GLOO_INTERFACE, ""), read_interfaces()
        for name in filter(None, interface.split(",")[:1]):
            if not there.get(name):
                raise StartFailed(
                    f"{self._here()}: {_GLOO_INTERFACE}={interface}: no such network interface with an address there "
                    f"(it has {', '.join(other for other in there if there[other])})"
                )
            address = there[name][0]
        with socket.create_server((address, 0), family=_family(address)) as server:
            places = self._exchange("place", server.getsockname()[:2])
            other = (self._ranks.rank + 1) % self._ranks.world_size
            try:
                socket.create_connection(places[other], timeout=_CONNECT_SECONDS).close()
            except OSError as error:
                raise StartFailed(
                    f"{self._here()} cannot connect to rank {other} at {':'.join(map(str, places[other]))} within "
                    f"{_CONNECT_SECONDS} s: {error} (from {address}, network interface {interface}). If another one "
                    f"joins the machines, name it: export {_GLOO_INTERFACE}=eth0, on SLURM among the setup lines of "
                    "the profile. NCCL chooses its own, or is given NCCL_SOCKET_IFNAME"
                ) from error
            self._exchange("connected", True)

    def _exchange(self, name: str, value: Any) -> list[Any]:
        """Return the values of all ranks. Raises StartFailed if one has failed meanwhile or does not come in time."""
        self._store.set(f"{name}/{self._ranks.rank}", json.dumps(value))
        keys = self._keys(name)
        start = time.monotonic()
        while not self._store.check(keys):
            if self._store.check([_FAILED]):
                raise StartFailed("another process has failed")
            if time.monotonic() - start > self._seconds:
                missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise StartFailed(
                    f"{self._here()}: {_counted(missing)} did not arrive at {self._place()} within {self._seconds} s "
                    "(resources.collective_timeout_seconds)"
                )
            time.sleep(_POLL_SECONDS)
            self._check_stop()
        return [json.loads(value) for value in self._store.multi_get(keys)]

    def _keys(self, name: str) -> list[str]:
        return [f"{name}/{rank}" for rank in range(self._ranks.world_size)]

    @contextlib.contextmanager
    def _failing_together(self) -> Iterator[None]:
        """Raise the first rank's failure on every rank."""
        try:
            yield
        except StartFailed as error:
            self._store.compare_set(_FAILED, "", str(error))
            message = self._store.get(_FAILED).decode()
            # The main rank's end would end the store.
            told, start = self._store.add(_TOLD, 1), time.monotonic()
            arrived = sum(self._store.check([key]) for key in self._keys("peer"))
            while self._ranks.is_main and told < arrived and time.monotonic() - start < _TELL_SECONDS:
                time.sleep(_POLL_SECONDS)
                told = self._store.add(_TOLD, 0)
            raise StartFailed(message) from error

    @contextlib.contextmanager
    def _main_rank_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise StartAbandoned(
                f"{self._here()}: the main rank ended before all processes had started ({_first_line(error)})"
            ) from error

    def _open_store(self, *, is_server: bool) -> None:
        timeout = datetime.timedelta(seconds=self._seconds)
        size = self._ranks.world_size
        store: Any = torch.distributed.TCPStore  # type: ignore[attr-defined]
        try:
            self._store = store(self._host, self._port, size, is_server, timeout, wait_for_workers=False)
        except RuntimeError as error:
            raise StartFailed(f"{self._here()}: {self._place()}: {_first_line(error)}") from error

    def _reach_main_rank(self) -> tuple[str, str]:
        """Connect to the main rank once. Returns this machine's address and the main rank's."""
        start = time.monotonic()
        while True:
            try:
                with socket.create_connection((self._host, self._port), timeout=1) as connection:
                    return connection.getsockname()[0], connection.getpeername()[0]
            except OSError as error:
                if time.monotonic() - start > self._seconds:
                    raise StartFailed(
                        f"{self._here()} has not reached {self._place()} within {self._seconds} s ({error}); "
                        "MASTER_ADDR must be an address of the main rank's machine for all others, the port open"
                    ) from error
            time.sleep(_POLL_SECONDS)
            self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set:
            raise StartAbandoned(f"stopped on request ({self._stop.reason}) before all processes had started")

    def _here(self) -> str:
        return f"rank {self._ranks.rank} on {socket.gethostname()}"

    def _place(self) -> str:
        return f"{self._host}:{self._port} (MASTER_ADDR, MASTER_PORT)"


def check_devices(peers: Sequence[Peer]) -> None:
    """Check that each process has a GPU of its own, or that none has one. Raises StartFailed."""
    owners: dict[str | None, list[Peer]] = defaultdict(list)
    for peer in peers:
        owners[peer.device].append(peer)
    without = owners.pop(None, [])
    if owners and without:
        raise StartFailed(f"{_named(without)}: no GPU is visible, while other processes have one")
    for device, sharing in owners.items():
        if len(sharing) > 1:
            raise StartFailed(
                f"{_named(sharing)}: these share one GPU ({device}), and each process needs its own; start no more "
                "processes on a machine than it has GPUs (resources.processes, gpus_per_node of a profile)"
            )


def shared_address(this: Peer, peers: Sequence[Peer]) -> str:
    """Return the address by which the other processes reach this one's machine.

    On the main rank's own machine its name often resolves to a loopback address, as Debian sets it up; the others then
    know the address.
    """
    if not _is_loopback(this.address):
        return this.address
    return next((peer.main_address for peer in peers if not _is_loopback(peer.main_address)), this.address)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _named(peers: Sequence[Peer]) -> str:
    hosts = ", ".join(dict.fromkeys(peer.host for peer in peers))
    return f"{_counted([peer.rank for peer in peers])} on {hosts}"


def _counted(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
