"""What kind of host an address is on: this machine, a private network, or the internet."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


def url_of(text: str) -> httpx.URL | None:
    """An address in its parts, as httpx will read it; None where it is no address."""
    import httpx  # late: with the command line that it brings, a fourth of what loading this pack would take

    try:
        return httpx.URL(text)
    except httpx.InvalidURL:
        return None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str) -> bool:
    """Whether an IP address is one the whole internet can reach; mapped and tunnelled IPv4 is looked into."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inside is not None and not inside.is_global:
            return False
    return ip.is_global and not ip.is_multicast


def may_be_public(host: str) -> bool:
    """Whether a host of an URL is a public address, or a name that may lead to one."""
    name = host.rstrip(".").lower()
    if _is_address(name):
        return is_public(name)
    last = name.rpartition(".")[2]
    numeric = last.isdigit() or last.startswith("0x")  # 127.1 and 0x7f.1 are addresses too
    return "." in name and not numeric and last not in ("localhost", "local", "internal")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
