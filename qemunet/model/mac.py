"""Ethernet addresses: reading them, making stable ones, and the host's twin of a guest's."""

from __future__ import annotations

import re

from qemunet.model.names import digest

DEFAULT_PREFIX = "52:54:00"
# Compiled where they are used: a start meets few of the patterns there are.
_MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
_PREFIX = r"[0-9a-f]{2}(:[0-9a-f]{2}){0,4}"


def normalize(text: str) -> str:
    """Return `text` in lower case with colons.

    Raises ValueError for anything but a unicast address of six octets.
    """
    mac = text.lower().replace("-", ":")
    if not re.fullmatch(_MAC, mac):
        raise ValueError("not a MAC address: six octets such as 52:54:00:12:34:56 are")
    if int(mac[:2], 16) & 1:
        raise ValueError("a multicast address (the first octet is odd); a card needs a unicast one")
    if mac == "00:00:00:00:00:00":
        raise ValueError("the zero address, which QEMU takes as none")
    return mac


def normalize_prefix(text: str) -> str:
    """Return a MAC prefix of one to five octets in lower case; raises ValueError."""
    prefix = text.lower().replace("-", ":")
    if not re.fullmatch(_PREFIX, prefix):
        raise ValueError("not a MAC prefix: one to five octets such as 52:54:00 are")
    if int(prefix[:2], 16) & 1:
        raise ValueError("a multicast prefix (the first octet is odd); a card needs a unicast address")
    return prefix


def stable(*identity: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Return an address that depends on `identity` alone, e.g. machine, lab, vm and nic."""
    missing = 6 - len(prefix.split(":"))
    tail = digest("\0".join(identity), missing)
    return ":".join((prefix, *(tail[i : i + 2] for i in range(0, len(tail), 2))))


def host_twin(mac: str) -> str:
    """Return the address of the host's end of a guest's card: the same with ``fe`` in front, ``fa`` if it has that.

    An equal address on both ends makes the guest unreachable (the bridge keeps the frames for itself), and
    a high first octet keeps a bridge without an address of its own from adopting it.
    """
    return ("fa" if mac.startswith("fe") else "fe") + mac[2:]


def link_local(mac: str) -> str:
    """Return the IPv6 address that an interface with this address makes for its link (RFC 4291, appendix A)."""
    from ipaddress import IPv6Address  # few starts need it

    one, *rest = bytes.fromhex(mac.replace(":", ""))
    number = bytes((one ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + number))
