"""A network: a switch that cards plug into."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen


class NetworkMode(StrEnum):
    """Who is on the network besides the guests."""

    PRIVATE = "private"  # the bridge is ours, the host is not on it
    ISOLATED = "isolated"  # the bridge is ours, the host has an address on it
    BRIDGE = "bridge"  # an existing bridge of somebody else's, used and never altered


@frozen
class OwnBridge:
    """A bridge that we make and take down again."""

    ifname: str
    mac: str
    mtu: int
    stp: bool
    forward_delay: int  # seconds; the kernel forces 2 or more while STP is on
    ageing: int  # seconds
    addresses: tuple[str, ...]  # of the host on it, CIDR


@frozen
class ForeignBridge:
    """A bridge that was there before us."""

    ifname: str
    mtu: int


@frozen
class Network:
    """A named switch. `keep`: it stays when its last vm stops."""

    name: str
    mode: NetworkMode
    switch: OwnBridge | ForeignBridge
    keep: bool = False
