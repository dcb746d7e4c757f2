from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.ground import interface
from pipeline.ground.errors import StartAbandoned, StartFailed
from pipeline.ground.interface import find_interface, read_interfaces
from pipeline.ground.ranks import Ranks
from pipeline.ground.rendezvous import Peer, Rendezvous, check_devices, shared_address
from pipeline.ground.stop import StopFlag
from tests.ground import two_hosts
from tests.processes import free_port

_SUM = """
import os
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import StartFailed
from pipeline.ground.ranks import read_ranks
try:
    collective = Collective(read_ranks(), timeout_seconds=60)
    print(collective.sum([collective.ranks.rank + 1]), os.environ["GLOO_SOCKET_IFNAME"])
    collective.close()
except StartFailed as error:
    print(error)
"""


def peer(rank: int, device: str | None = None, address: str = "10.0.0.7", main_address: str = "10.0.0.1") -> Peer:
    return Peer(rank, f"n{rank // 2}", device, address, main_address)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place to meet for this process as the main rank of two."""
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Sequence[Sequence[str]]]:
    if (reason := two_hosts.why_unavailable()) is not None:
        pytest.skip(reason)
    with two_hosts.two_hosts(tmp_path) as words:
        yield words


@pytest.mark.processes
@pytest.mark.parametrize("address", ["n1", "10.77.0.1"])
def test_hosts_whose_names_resolve_to_a_loopback_address_find_each_other(
    hosts: Sequence[Sequence[str]], address: str
) -> None:
    """As Debian sets it up, on the main rank's host MASTER_ADDR itself does so."""
    ended = two_hosts.run_ranks(hosts, _SUM, {"MASTER_ADDR": address, "MASTER_PORT": "29500"})
    assert ended == [(0, "[3] cable\n")] * 2


@pytest.mark.processes
@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ("lo", r"rank \d on n\d cannot connect to rank \d at 127\.0\.0\.1:\d+ .*export GLOO_SOCKET_IFNAME=eth0"),
        ("ib0", r"rank \d on n\d: GLOO_SOCKET_IFNAME=ib0: no such network interface .*\(it has lo, cable\)"),
    ],
)
def test_a_wrong_interface_ends_every_rank_with_host_address_and_the_variable(
    hosts: Sequence[Sequence[str]], interface: str, message: str
) -> None:
    place = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    (_, first), (_, second) = two_hosts.run_ranks(hosts, _SUM, {**place, "GLOO_SOCKET_IFNAME": interface})
    assert re.match(message, first)
    assert first == second


@pytest.mark.usefixtures("place")
def test_a_process_that_does_not_arrive_is_named() -> None:
    with pytest.raises(StartFailed, match=r"rank 1 did not arrive at 127.0.0.1:\d+ .*within 1 s"):
        Rendezvous(Ranks(0, 0, 2), 1, StopFlag()).meet(None)


@pytest.mark.usefixtures("place")
def test_a_main_rank_that_cannot_be_reached_is_named_with_the_variables_to_set() -> None:
    with pytest.raises(
        StartFailed, match=r"rank 1 on .* has not reached 127.0.0.1:\d+ \(MASTER_ADDR, MASTER_PORT\) within 0 s"
    ):
        Rendezvous(Ranks(1, 1, 2), 0, StopFlag()).meet(None)


@pytest.mark.usefixtures("place")
def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("", int(os.environ["MASTER_PORT"]))), pytest.raises(StartFailed, match="MASTER_PORT"):
        Rendezvous(Ranks(0, 0, 2), 60, StopFlag()).meet(None)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_request_to_stop_ends_the_wait_for_other_processes(rank: int) -> None:
    stop = StopFlag()
    stop.reason = "SIGTERM"
    with pytest.raises(StartAbandoned, match=r"on request \(SIGTERM\) before all processes had started"):
        Rendezvous(Ranks(rank, rank, 2), 60, stop).meet(None)


def test_the_main_rank_s_host_learns_from_the_others_how_it_is_reached() -> None:
    peers = [peer(0, address="127.0.0.1", main_address="127.0.1.1"), peer(2)]
    assert [shared_address(each, peers) for each in peers] == ["10.0.0.1", "10.0.0.7"]
    assert shared_address(peers[0], peers[:1]) == "127.0.0.1", "on one machine alone"


def test_every_process_needs_a_gpu_of_its_own() -> None:
    check_devices([peer(0), peer(1)])
    check_devices([peer(0, "GPU-a"), peer(1, "GPU-b")])
    with pytest.raises(StartFailed, match=r"ranks 1, 2 on n0, n1: these share one GPU \(GPU-b\).* gpus_per_node"):
        check_devices([peer(0, "GPU-a"), peer(1, "GPU-b"), peer(2, "GPU-b")])
    with pytest.raises(StartFailed, match="rank 2 on n1: no GPU is visible, while other processes have one"):
        check_devices([peer(0, "GPU-a"), peer(1, "GPU-b"), peer(2)])


def test_an_interface_is_found_by_each_of_its_addresses() -> None:
    interfaces = read_interfaces()
    assert interfaces["lo"][0] == "127.0.0.1"
    for name, addresses in interfaces.items():
        assert {find_interface(address) for address in addresses} <= {name}
    assert find_interface("127.0.1.1") == "lo"
    assert find_interface("203.0.113.9") is None


def test_an_address_of_none_of_its_interfaces_is_named_with_the_variable_to_set(place, monkeypatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with pytest.raises(StartFailed, match=r"203\.0\.113\.9, by which .* export GLOO_SOCKET_IFNAME="):
        Rendezvous(Ranks(0, 0, 2), 60, StopFlag())._connect_to_next("203.0.113.9")


def test_link_local_addresses_are_not_told_to_others(tmp_path, monkeypatch) -> None:
    fields = "{} 02 40 {} 80 eth7\n"
    addresses = ("fe80000000000000021122fffe334455", "20010db8000000000000000000000001")
    (tmp_path / "if_inet6").write_text("".join(fields.format(address, "20") for address in addresses))
    monkeypatch.setattr(interface, "_IPV6_ADDRESSES", tmp_path / "if_inet6")
    assert interface.read_interfaces()["eth7"] == ["2001:db8::1"]
