"""When a guest that was started counts as ready."""

from __future__ import annotations

from qemunet.frozen import frozen


@frozen
class LeaseReady:
    """A network has lent an address to one of its cards."""


@frozen
class ConsoleReady:
    """Its serial console has said something that a regular expression finds."""

    pattern: str


@frozen
class TcpReady:
    """A connection from the host to this port is taken, at any of the guest's addresses."""

    port: int


@frozen
class ScriptReady:
    """Its script is done."""


Ready = LeaseReady | ConsoleReady | TcpReady | ScriptReady
