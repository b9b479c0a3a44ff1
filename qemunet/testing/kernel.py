"""What the kernel gives to a new interface, and how it refuses."""

from __future__ import annotations

import os

from qemunet.steps import sysctl_name

_PER_LINK = {
    "net.ipv4.conf.{}.arp_filter": "0",
    "net.ipv4.conf.{}.arp_ignore": "0",
    "net.ipv4.conf.{}.forwarding": "0",
    "net.ipv4.conf.{}.proxy_arp": "0",
    "net.ipv4.conf.{}.route_localnet": "0",
    "net.ipv4.conf.{}.rp_filter": "0",
    "net.ipv6.conf.{}.accept_ra": "1",
    "net.ipv6.conf.{}.autoconf": "1",
    "net.ipv6.conf.{}.disable_ipv6": "0",
    "net.ipv6.conf.{}.forwarding": "0",
    "net.ipv6.conf.{}.proxy_ndp": "0",
}


def refused(code: int, what: str = "") -> OSError:
    """Return the error that the kernel would answer with."""
    return OSError(code, what or os.strerror(code))


def defaults(name: str) -> dict[str, str]:
    """Return the sysctls that come with an interface."""
    return {key.format(sysctl_name(name)): value for key, value in _PER_LINK.items()}
