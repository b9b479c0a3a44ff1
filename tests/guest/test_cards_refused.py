"""A card that cannot be had is refused with the reason and what helps, and then nothing at all has changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.guest.cards import Stage, machine, running
from tests.guest.scene import ip

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = (
    '[network.lab]\nmode = "isolated"\naddress = ["10.77.1.1/24"]\n'
    + machine("one", "hotplug-slots = 1")
    + '[[vm.one.nic]]\nmode = "user"\nforward = ["tcp:127.0.0.1:5591:80"]\n'
    + machine("other", "nic = []")
    + machine("tiny", 'profile = "microvm"')
    + '[[vm.tiny.nic]]\nmode = "user"\n'
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running(tmp_path_factory.mktemp("refused"), LAB) as stage:
        for vm in ("one", "other", "tiny"):
            stage.guest(vm)
        yield stage


@pytest.fixture
def nothing_changes(stage: Stage) -> Iterator[None]:
    before = stage.look()
    yield
    stage.is_as(before)


@pytest.mark.usefixtures("nothing_changes")
def test_a_machine_without_hot_plug_says_so(stage: Stage) -> None:
    error = stage.fails(2, "nic", "add", "tiny", "--mode", "user")
    assert "the cards of tiny are fixed while it runs" in error
    assert 'profile = "q35"' in error
    error = stage.fails(2, "nic", "del", "tiny", "net0")
    assert "net0 cannot be unplugged" in error
    assert "take the card out of its file" in error
    assert stage.cards("tiny")["net0"]["state"] == "plugged"
    assert "fixed while it runs" in stage.fails(2, "nic", "set", "tiny", "net0", "--network", "lab")
    error = stage.fails(2, "nic", "set", "tiny", "net0", "--model", "e1000")
    assert "model" in error


@pytest.mark.usefixtures("nothing_changes")
def test_with_all_slots_in_use_it_says_how_to_get_more(stage: Stage) -> None:
    stage.add("one", "--network", "lab")
    between = stage.look()
    error = stage.fails(6, "nic", "add", "one", "--network", "lab")
    assert "vm.one: no slot is free; it has net0, net1" in error
    assert "hotplug-slots = 9 in [vm.one]" in error
    stage.is_as(between)
    stage.remove("one", "net1")


@pytest.mark.usefixtures("nothing_changes")
def test_an_acpi_index_is_the_guests_and_only_one_cards(stage: Stage) -> None:
    stage.add("one", "--network", "lab", "--acpi-index", "77")
    stage.guest("one").succeeds("grep -x 77 /sys/bus/pci/devices/*/acpi_index")
    stage.set("one", "net1", "--link", "down")
    stage.guest("one").succeeds("grep -x 77 /sys/bus/pci/devices/*/acpi_index")
    stage.remove("one", "net1")
    error = stage.fails(6, "nic", "add", "one", "--network", "lab", "--acpi-index", "1")
    assert 'acpi-index "1" is also that of vm.one.nic[0]' in error


@pytest.mark.usefixtures("nothing_changes")
def test_what_somebody_else_has_is_refused_by_name(stage: Stage) -> None:
    """An id, an address, an interface, a port: of the same guest, of another one, of somebody else."""
    mac = stage.cards("one")["net0"]["mac"]
    lab = ("--network", "lab")
    assert mac in stage.fails(6, "nic", "add", "one", "--id", "net0", *lab)
    assert "vm one" in stage.fails(6, "nic", "add", "other", "--mac", mac, *lab)
    assert "vm.one.nic[0]" in stage.fails(6, "nic", "add", "one", "--mac", mac, *lab)
    ip("link", "add", "taken0", "type", "bridge")
    assert "taken0 is a bridge already" in stage.fails(6, "nic", "add", "one", "--ifname", "taken0", *lab)
    ip("link", "del", "taken0")
    user = ("--mode", "user", "--forward", "tcp:127.0.0.1:5591:80")
    assert f"qemu-one (pid {stage.pid('one')})" in stage.fails(6, "nic", "add", "other", *user)
    assert "vm.one.nic[0].forward" in stage.fails(6, "nic", "add", "one", *user)
    with socket.create_server(("127.0.0.1", 0)) as server:
        rule = f"tcp:127.0.0.1:{server.getsockname()[1]}:80"
        assert "is in use by python" in stage.fails(6, "nic", "add", "other", "--mode", "user", "--forward", rule)
        assert "is in use by python" in stage.fails(6, "nic", "set", "one", "net0", "--forward", rule)


@pytest.mark.usefixtures("nothing_changes")
def test_what_is_not_there_is_said_to_be_missing(stage: Stage) -> None:
    """A network, a vm, a card: status 4 with those there are. A bridge, a parent: what the host lacks."""
    assert "or up: lab" in stage.fails(4, "nic", "add", "one", "--network", "nope")
    assert "vm.nope: it does not run" in stage.fails(4, "nic", "add", "nope", "--network", "lab")
    assert "it has net0 (52:54:00:" in stage.fails(4, "nic", "del", "one", "net7")
    assert "it has net0 (52:54:00:" in stage.fails(4, "nic", "set", "one", "52:54:00:00:00:77", "--link", "down")
    assert "the bridge nope" in stage.fails(3, "nic", "add", "one", "--bridge", "nope")
    assert "the interface nope" in stage.fails(3, "nic", "add", "one", "--mode", "macvtap", "--parent", "nope")
    assert 'did you mean "virtio"?' in stage.fails(2, "nic", "add", "one", "--model", "virtoi")
    assert "nothing to change" in stage.fails(2, "nic", "set", "one", "net0")


@pytest.mark.usefixtures("nothing_changes")
def test_a_card_that_qemu_refuses_leaves_nothing(stage: Stage) -> None:
    """When QEMU says no, the interface was made, its backend was in QEMU, and the network was up."""
    foreign = {"driver": "e1000", "id": "foreign", "bus": "rp.7", "addr": "0x0", "acpi-index": 50}
    stage.qmp("other", "device_add", foreign)
    error = stage.fails(6, "nic", "add", "other", "--network", "lab", "--acpi-index", "50")
    assert "vm.other: acpi-index 50 is that of another device" in error
    with stage.heard("other", event="qmp", name="DEVICE_DELETED"):
        stage.qmp("other", "device_del", {"id": "foreign"})
