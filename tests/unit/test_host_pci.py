"""What is seen of PCI devices, in a tree of files like that of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qemunet.facts import PciFact
from qemunet.host import pci

DEVICE = "0000:03:00.1"


class Tree:
    """A /sys/bus/pci/devices and a /dev/vfio."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices, self.nodes = folder / "devices", folder / "vfio"
        self.devices.mkdir()
        self.nodes.mkdir()

    def device(self, address: str, driver: str = "", group: int | None = None, kind: str = "0x020000") -> None:
        place = self.devices / address
        place.mkdir()
        (place / "class").write_text(f"{kind}\n")
        if driver:
            (self.folder / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (place / "driver").symlink_to(self.folder / "drivers" / driver)
        if group is not None:
            members = self.folder / "groups" / str(group) / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(place)
            (place / "iommu_group").symlink_to(members.parent)

    def look(self, address: str = DEVICE) -> PciFact | None:
        return pci.look_at(address, str(self.devices), str(self.nodes))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_device_that_is_not_there_is_nothing(tree: Tree) -> None:
    assert tree.look() is None


def test_a_host_without_iommu_has_no_groups(tree: Tree) -> None:
    tree.device(DEVICE, "e1000e")
    assert tree.look() == PciFact(DEVICE, "e1000e", vfio=False)


def test_a_group_is_shown_with_what_else_is_in_it_but_bridges(tree: Tree) -> None:
    """Bridges stay with the host, whatever their driver is."""
    tree.device(DEVICE, "vfio-pci", 12)
    tree.device("0000:03:00.0", "ixgbe", 12)
    tree.device("0000:02:00.0", "pcieport", 12, kind="0x060400")
    tree.device("0000:03:00.2", "", 12, kind="0x030000")
    tree.device("0000:04:00.0", "nvme", 13)
    beside = (("0000:03:00.0", "ixgbe"), ("0000:03:00.2", ""))
    assert tree.look() == PciFact(DEVICE, "vfio-pci", 12, beside, vfio=False)


def test_the_node_of_a_group_has_an_owner_and_a_mode(tree: Tree) -> None:
    tree.device(DEVICE, "vfio-pci", 12)
    (tree.nodes / "vfio").touch()
    (tree.nodes / "12").touch()
    (tree.nodes / "12").chmod(0o640)
    found = tree.look()
    assert found is not None
    assert found.vfio
    assert found.node is not None
    assert (found.node.uid, found.node.mode, found.node.opened) == (os.geteuid(), 0o640, True)
    assert found.node.lets_in(os.geteuid(), 12345)
    assert not found.node.lets_in(12345, found.node.gid)


def test_other_classes_are_told_apart(tree: Tree) -> None:
    tree.device(DEVICE, "vfio-pci", 12, kind="0x030000")
    found = tree.look()
    assert found is not None
    assert not found.network
