"""The network interfaces of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def read_interfaces() -> dict[str, list[str]]:
    """Return the addresses of each interface by its name: the first IPv4 address, then all of IPv6.

    Without link-local ones, which no other machine can be told.
    """
    found: dict[str, list[str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            found[name] = []
            with contextlib.suppress(OSError):  # it has no IPv4 address
                answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                found[name].append(socket.inet_ntoa(answer[20:24]))
    lines = _IPV6_ADDRESSES.read_text().splitlines() if _IPV6_ADDRESSES.exists() else []
    for fields in map(str.split, lines):
        address = ipaddress.IPv6Address(bytes.fromhex(fields[0]))
        if not address.is_link_local:
            found.setdefault(fields[-1], []).append(str(address))
    return found


def find_interface(address: str) -> str | None:
    """Return the name of the interface with the address, or None."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    if wanted.is_loopback:
        return "lo"
    return next((name for name, addresses in read_interfaces().items() if str(wanted) in addresses), None)
