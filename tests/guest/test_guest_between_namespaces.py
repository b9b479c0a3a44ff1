"""A guest that is the only way between two namespaces: what the example expects holds as long as it forwards."""

from __future__ import annotations

import pytest

from qemunet.guest import image
from qemunet.testing.bench import Bench
from tests import namespace
from tests.guest.scene import TREE

EXAMPLE = TREE / "examples" / "firewall-between-namespaces.toml"

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.qemunet_lab(EXAMPLE, set=["vm.firewall.accel=tcg"], timeout=240),
]


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Bench:
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)
    found: Bench = request.getfixturevalue("qemunet_lab")
    return found


def test_through_it_passes_what_it_forwards_and_nobody_else_forwards_what_it_does_not(lab: Bench) -> None:
    (firewall,) = lab
    inside, outside = lab["inside"], lab["outside"]
    inside.wait_until("busybox ping -c 1 -W 2 192.168.60.1")
    outside.wait_until("busybox ping -c 1 -W 2 192.168.70.1")
    inside.fails("busybox ping -c 1 -W 2 192.168.70.10")
    outside.fails("busybox ping -c 1 -W 2 192.168.60.10")

    firewall.succeeds("sysctl -w net.ipv4.ip_forward=1")
    lab.verify()

    firewall.link_down("net1")
    inside.fails("busybox ping -c 1 -W 2 192.168.70.10")
    firewall.link_up("net1")
    inside.wait_until("busybox ping -c 1 -W 2 192.168.70.10")
