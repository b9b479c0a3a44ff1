"""Namespaces of labs in a host in memory."""

from __future__ import annotations

from qemunet.facts import LinkFact
from qemunet.frozen import replace
from qemunet.testing.fake import FakeHost
from qemunet.testing.network import NO_MAC


class FakePlace(FakeHost):
    """A namespace of a lab in a host in memory, whose handles and other namespaces it shares."""

    def __init__(self, host: FakeHost) -> None:
        lo = LinkFact(1, "lo", "", NO_MAC, 65536, up=True)
        super().__init__(replace(host.facts, links={"lo": lo}, addresses={}, routes=(), sysctls={}))
        self.sysctls["net.ipv4.ip_forward"] = "0"
        self.handles, self.places = host.handles, host.places

    def picture(self) -> dict[str, object]:
        """Return what is in it."""
        shown = ("links", "addresses", "neighbours", "routes", "sysctls")
        return {name: whole for name, whole in self.own_picture().items() if name in shown}
