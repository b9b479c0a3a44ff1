"""What a guest may send by a card: whose it may say that it is, and what it may pretend to be on its network."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen


class GuardLevel(StrEnum):
    """How much of what a guest sends is looked at."""

    OFF = "off"
    MAC = "mac"  # nobody else's Ethernet address
    CLEAN = "clean"  # nor IP address, nor what only a router, a DHCP server or a switch sends
    STRICT = "strict"  # from the addresses that are known alone, and nothing but ARP and IP


@frozen
class Guard:
    """What a guest may send by a card.

    `addresses` are those that it may use, `behind` the networks (CIDR) for which it is a router. Where level CLEAN
    knows none of a version of IP the guest may use any but the `foreign` ones: the host's, and the card's gateways.
    """

    level: GuardLevel = GuardLevel.OFF
    addresses: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
