"""A guest that is the only way between two namespaces: what the example expects holds as long as it forwards."""

from __future__ import annotations

import pytest

from qemunet.testing.bench import Bench
from tests.guest.around import as_before, emulated, ping
from tests.guest.scene import TREE

EXAMPLE = TREE / "examples" / "firewall-between-namespaces.toml"

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.qemunet_lab(EXAMPLE, set=emulated("firewall"), around=as_before),
]


def test_through_it_passes_what_it_forwards_and_nobody_else_forwards_what_it_does_not(lab: Bench) -> None:
    (firewall,) = lab
    inside, outside = lab["inside"], lab["outside"]
    inside.wait_until(ping("192.168.60.1"))
    outside.wait_until(ping("192.168.70.1"))
    inside.fails(ping("192.168.70.10", 2))
    outside.fails(ping("192.168.60.10", 2))

    firewall.succeeds("sysctl -w net.ipv4.ip_forward=1")
    lab.verify()

    firewall.link_down("net1")
    inside.fails(ping("192.168.70.10", 2))
    firewall.link_up("net1")
    inside.wait_until(ping("192.168.70.10"))
