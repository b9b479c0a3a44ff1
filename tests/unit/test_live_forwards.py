"""A vm that runs is compared with its lab file whatever the networks there forward, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet.config import read
from qemunet.config.spec import NicSpec
from qemunet.config.write import vm_toml
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.live import running
from qemunet.live.record import record
from qemunet.plan.live import Difference, differences
from qemunet.records import VmRecord
from qemunet.state import Runtime
from tests.unit.config_host import FACTS, lab

HOST = replace(FACTS, programs={**FACTS.programs, "dnsmasq": "/usr/sbin/dnsmasq", "nft": "/usr/sbin/nft"})
LAB = """
[network.lab]
mode = "nat"
address = "192.168.50.1/24"
forward = ["tcp::8080:a:80", "tcp::2222:b:22"]
[vm.a]
user = "65534:65534"
boot.kernel = "vmlinuz"
[[vm.a.nic]]
network = "lab"
ip = "192.168.50.7/24"
[vm.b]
user = "65534:65534"
boot.kernel = "vmlinuz"
[[vm.b.nic]]
network = "lab"
ip = "192.168.50.8/24"
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A runtime directory on a host that is photographed as it is in `HOST`."""
    monkeypatch.setattr(running, "photograph", lambda *_: HOST)
    return Runtime(str(tmp_path))


def started(runtime: Runtime, text: str, name: str) -> VmRecord:
    """Write down a vm as a start does, beside its lab file."""
    file = Path(runtime.path) / "lab.toml"
    file.write_text(text, encoding="utf-8")
    found = replace(lab(text, HOST), file=str(file))
    scope = Path(runtime.scope(f"vm/{name}").path("vm.toml"))
    scope.parent.mkdir(parents=True)
    scope.write_text(vm_toml(found, found.vm(name)), encoding="utf-8")
    return record(found, found.vm(name), HOST)


def compared(runtime: Runtime, vm: VmRecord, text: str) -> tuple[Difference, ...]:
    """What it takes to make a vm what a text says, as `apply` finds out."""
    wish = running.as_in(read.loads(text, "/lab/lab.toml"), vm.name)
    found = running.compare(runtime, LinuxHost(runtime.path), vm, wish)
    return differences(found.old, found.new)


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_runs_matches_a_file_that_forwards_to_its_guests(runtime: Runtime, name: str) -> None:
    """To the one that is compared, and to another one."""
    assert compared(runtime, started(runtime, LAB, name), LAB) == ()


def test_a_change_is_found_beside_forwards(runtime: Runtime) -> None:
    """One card that comes, in the guest to whose other card a port leads."""
    (one,) = compared(runtime, started(runtime, LAB, "a"), LAB.replace("[vm.b]", "[[vm.a.nic]]\n[vm.b]"))
    assert one.describe().startswith("plug in")


def test_a_card_may_come_on_a_network_that_forwards_to_another_guest(runtime: Runtime) -> None:
    """The network is not up yet; all that is known of it stands in the file."""
    two = LAB + '[network.red]\nmode = "nat"\naddress = "192.168.60.1/24"\nforward = "tcp::81:c:80"\n'
    two += '[vm.c]\nboot.kernel = "vmlinuz"\n[[vm.c.nic]]\nnetwork = "red"\nip = "192.168.60.9/24"\n'
    vm = started(runtime, two, "a")
    more = NicSpec("nic", id="more", network="red")
    wish = running.with_cards(runtime, vm, lambda nics: (*nics, more))
    found = running.compare(runtime, LinuxHost(runtime.path), vm, wish)
    assert [nic.id for nic in found.new.nics] == ["net0", "more"]
