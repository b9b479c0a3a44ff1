"""A network namespace of a lab: a host without a machine."""

from __future__ import annotations

from qemunet.frozen import frozen


@frozen
class Netns:
    """A namespace. `named`: ``ip netns`` shows it. `addresses` are those of its ``lo`` beside the usual ones."""

    name: str
    hostname: str
    named: bool
    addresses: tuple[str, ...] = ()  # CIDR
    sysctls: tuple[tuple[str, str], ...] = ()
