"""Reads the addresses that a network's dnsmasq has lent.

Its file is written by a program that guests talk to, and has names that they choose: only what has the form of a MAC,
an address and a name is passed on.
"""

from __future__ import annotations

import ipaddress
import os
import re
import select
import time
import typing

from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "dnsmasq/leases"  # in the scope of a network, or of its server
_SERVED_BY = "served-by"  # in the scope of a network whose server serves others as well
_LARGEST = 1 << 24  # bytes that are read
_WRITING, _GLANCE = 0.02, 0.002  # seconds that writing it anew may take, and between two looks
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253})")
_DUID_WITH_MAC = re.compile(r"00:(?:01:00:01:(?:[0-9a-f]{2}:){4}|03:00:01:)((?:[0-9a-f]{2}:){5}[0-9a-f]{2})")


@frozen
class Lease:
    """An address that somebody has until `expires` (seconds since the epoch, None: for ever).

    `mac` is empty for an IPv6 client that identifies itself otherwise.
    """

    mac: str
    ip: str
    hostname: str | None
    expires: int | None


def read(scope: str) -> list[Lease]:
    """Return the leases of the network whose scope is that directory; none, if it lends no addresses."""
    serving, subnets = _served(scope)
    try:
        found = list(parse(_settled(os.path.join(serving, FILE))))
    except (FileNotFoundError, NotADirectoryError):
        return []
    inside = (one for one in found if any(ipaddress.ip_address(one.ip) in subnet for subnet in subnets))
    return found if serving == scope else list(inside)


def _settled(path: str) -> str:
    """Return the text of a file that its program empties and writes anew now and then, when it is not just at that.

    One that seems to be is looked at again; one that has nothing in it for so long has nothing.
    """
    before, deadline = _text(path), time.monotonic() + _WRITING
    while time.monotonic() < deadline:
        if before.endswith("\n") and before == (now := _text(path)):
            return now
        select.select([], [], [], _GLANCE)
        before = _text(path)
    return before


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(_LARGEST).decode(errors="replace")


def when(expires: int | None) -> str:
    """Say when a lease ends, in local time."""
    return "never" if expires is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires))


def file_of(scope: str) -> str:
    """Return the file with the leases of the network whose scope is that directory."""
    return os.path.join(_served(scope)[0], FILE)


def _served(scope: str) -> tuple[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    """Return where the server of a network has its files, and the network's subnets if it serves others as well."""
    try:
        with open(os.path.join(scope, _SERVED_BY)) as file:
            name, *subnets = file.read().split("\n")[:-1]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return scope, []
    return os.path.join(scope, "..", "..", name), [ipaddress.ip_network(one) for one in subnets]


def parse(text: str) -> Iterator[Lease]:
    """Yield the leases of a file's text; what is no lease is left out, and so is a last line that has no end."""
    for line in text.split("\n")[:-1]:
        lease = _lease(line.split(" "))
        if lease is not None:
            yield lease


def _lease(words: list[str]) -> Lease | None:
    """Return the lease of a line: when it ends, the MAC (of IPv6 a number of the client), the address, name and id."""
    if len(words) < 5 or not re.fullmatch(r"[0-9]{1,12}", words[0]):
        return None
    ends, who, address, name, client = words[:5]
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    mac = who if ip.version == 4 else _of_duid(client)
    if ip.version == 4 and not _MAC.fullmatch(mac):
        return None
    hostname = name if name != "*" and _NAME.fullmatch(name) else None
    return Lease(mac, str(ip), hostname, int(ends) or None)


def _of_duid(duid: str) -> str:
    found = _DUID_WITH_MAC.fullmatch(duid)
    return found[1] if found else ""
