"""What somebody else has plugged into a guest under the name that a card of ours would have."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from qemunet.errors import QemunetError, Taken
from tests.crash.live import LAB, Live, differs
from tests.world import until

pytestmark = [pytest.mark.guest]

ROOMY = LAB.replace("hotplug-slots = 1", "hotplug-slots = 8")  # somebody else's card takes a slot as well


@pytest.mark.parametrize("what", ["netdev", "device"])
def test_what_somebody_else_plugged_in_under_the_id_of_a_card_survives_it(live: Live, what: str) -> None:
    """By QMP, as anybody may at monitor.sock; a card that is given no id takes another one."""

    def qmp(command: str, **arguments: Any) -> None:
        live.ask("qmp", vm="one", execute=command, arguments=arguments)

    qmp("netdev_add", type="user", id="host-net1" if what == "netdev" else "theirs")
    if what == "device":
        qmp("device_add", driver="virtio-net-pci", id="net1", netdev="theirs", bus="rp.3", addr="0x0")
    before = live.state()
    with pytest.raises(Taken, match="QEMU has one already"):
        live.ask("nic-add", vm="one", keys={"network": "second", "id": "net1"}, timeout=10)
    assert not differs(before, live.state()), differs(before, live.state())
    if what == "device":
        assert live.ask("nic-add", vm="one", keys={"network": "second"}, timeout=10)["nic"]["id"] == "net2"
        live.ask("nic-del", vm="one", nic="net2", timeout=10)
        until(lambda: _is_unplugged(live, "net1"), "it is unplugged")
    qmp("netdev_del", id="host-net1" if what == "netdev" else "theirs")


def _is_unplugged(live: Live, device: str) -> bool:
    with contextlib.suppress(QemunetError):
        live.ask("qmp", vm="one", execute="device_del", arguments={"id": device})
    return not live.state()["foreign"]
