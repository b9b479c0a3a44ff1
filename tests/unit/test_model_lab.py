"""A lab is asked for its vms, networks and cards by name."""

from __future__ import annotations

import pytest

from qemunet.model.lab import Lab
from qemunet.model.network import ForeignBridge, Network, NetworkMode
from qemunet.model.nic import Nic, UserBackend

NETWORK = Network("lan", NetworkMode.BRIDGE, ForeignBridge("br0", 1500))


def test_what_is_there_is_found() -> None:
    """And what is not is a KeyError."""
    lab = Lab("lab", "/lab.toml", (), (NETWORK,))
    assert lab.network("lan") is NETWORK
    with pytest.raises(KeyError, match="wan"):
        lab.network("wan")
    with pytest.raises(KeyError, match="a"):
        lab.vm("a")


def test_a_card_and_its_backend_have_different_ids() -> None:
    """QEMU's set_link would not know which is meant."""
    nic = Nic("net0", "e1000", "52:54:00:00:00:01", UserBackend())
    assert nic.netdev == "host-net0" != nic.id
