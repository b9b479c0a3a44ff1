"""Cards that are devices of the host: what a file says of one, what the host lacks for it, and what QEMU is told."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from qemunet.cli.look import nic_json
from qemunet.config import edit, profiles, read, resolve
from qemunet.config.spec import NicMode, NicSpec
from qemunet.config.write import vm_toml
from qemunet.errors import ConfigError, HostLacks, Taken, UsageError
from qemunet.facts import Facts, NodeFact, PciFact
from qemunet.frozen import replace
from qemunet.live.cards import Cards
from qemunet.live.record import nic_record
from qemunet.model.nic import Nic
from qemunet.model.remote import HostdevBackend
from qemunet.plan import build, live, plug, text
from qemunet.records import VmRecord
from qemunet.steps import AddCard, AddNetdev, Claim
from tests.unit.config_host import FACTS, FILE, lab

DEVICE = "0000:03:00.1"
VM = '[vm.a]\nboot.guest = "tiny"\nuser = "sara"\n[[vm.a.nic]]\n'
CARD = f'{VM}mode = "hostdev"\ndevice = "{DEVICE}"\n'
NODE = NodeFact(1001, 0, 0o600, opened=True)
BINDING = (
    f"driverctl set-override {DEVICE} vfio-pci`, or `modprobe vfio-pci && echo vfio-pci > "
    f"/sys/bus/pci/devices/{DEVICE}/driver_override && echo {DEVICE} > "
    f"/sys/bus/pci/devices/{DEVICE}/driver/unbind && echo {DEVICE} > /sys/bus/pci/drivers_probe"
)
READY = PciFact(DEVICE, "vfio-pci", 12, node=NODE)


def host(memlock: int | None = None, **more: object) -> Facts:
    """The host of these tests with a device that is like this."""
    return replace(FACTS, devices={DEVICE: replace(READY, **more)}, memlock=memlock)  # type: ignore[arg-type]


def card(more: str = "", facts: Facts | None = None) -> Nic:
    return lab(CARD + more, facts or host()).vms[0].nics[0]


@pytest.mark.parametrize("written", [DEVICE, "03:00.1", "0000:03:00.1"])
def test_a_device_is_named_with_or_without_its_domain(written: str) -> None:
    found = lab(CARD.replace(DEVICE, written), host()).vms[0].nics[0]
    assert found.backend == HostdevBackend(DEVICE)
    assert (found.model, found.mac) == ("vfio-pci", "")


def test_hexadecimal_digits_may_be_capital() -> None:
    spec = lab(CARD.replace(DEVICE, "0000:AF:1F.7"), FACTS, strict=False)
    assert spec.vms[0].nics[0].backend == HostdevBackend("0000:af:1f.7")


@pytest.mark.parametrize(
    "wrong", ["", "eth0", "03:00", "03:00.8", "03:20.0", "0000:3:00.1", "00000:03:00.1", "03:00.1 "]
)
def test_what_is_no_pci_address_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a PCI device") as caught:
        lab(CARD.replace(DEVICE, wrong), host())
    assert caught.value.where.endswith("nic[0].device")
    assert "0000:03:00.1" in caught.value.hint


def test_a_card_is_written_as_it_was_read() -> None:
    one = lab(f"{CARD}boot-index = 3\n", host())
    again = lab(vm_toml(one, one.vms[0]), host())
    assert again.vms[0].nics == one.vms[0].nics


@pytest.mark.parametrize(
    ("more", "key", "what"),
    [
        ('model = "e1000"', "model", "is not for a device of the host"),
        ('mac = "52:54:00:00:00:01"', "mac", "is not for a device of the host"),
        ('mac-prefix = "52:54:00"', "mac-prefix", "is not for a device of the host"),
        ('link = "down"', "link", "nothing is between the device and its cable"),
        ("mtu = 9000", "mtu", "the guest sets it"),
        ('ip = "10.0.0.2/24"', "ip", "is not known here"),
        ("queues = 2", "queues", "belongs to"),
        ('vhost = "on"', "vhost", "belongs to"),
        ('rate = { in = "1mbit" }', "rate", "belongs to"),
        ('guard = "mac"', "guard", "belongs to"),
        ('ifname = "tap7"', "ifname", "belongs to"),
        ('network = "lab"', "network", "belongs to"),
        ('bridge = "br0"', "bridge", "belongs to"),
    ],
)
def test_what_only_the_device_decides_is_refused_in_one_line(more: str, key: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        card(more)
    assert caught.value.where.endswith(f"vm.a.nic[0].{key}")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_device_has_to_be_said() -> None:
    with pytest.raises(ConfigError, match="needs the PCI address") as caught:
        lab(f'{VM}mode = "hostdev"', host())
    assert caught.value.where.endswith("nic[0].device")


def test_a_device_belongs_to_its_mode() -> None:
    with pytest.raises(ConfigError, match='belongs to mode "hostdev"'):
        lab(f'{VM}device = "{DEVICE}"', host())


def test_a_machine_without_pci_has_no_place_for_it() -> None:
    with pytest.raises(ConfigError, match="has no PCI") as caught:
        lab(CARD.replace("boot.guest", 'profile = "microvm"\nboot.guest'), host())
    assert caught.value.where.endswith("nic[0].mode")


def test_a_device_has_one_card() -> None:
    with pytest.raises(ConfigError, match=r"is also that of vm\.a"):
        lab(f'{CARD}[[vm.a.nic]]\nmode = "hostdev"\ndevice = "03:00.1"\n', host())


def test_a_group_has_one_guest() -> None:
    """The kernel gives a group to one process; two devices of it may be in one guest."""
    other = "0000:03:00.2"
    facts = replace(host(), devices={DEVICE: READY, other: replace(READY, address=other)})
    second = f'mode = "hostdev"\ndevice = "{other}"\n'
    assert len(lab(f"{CARD}[[vm.a.nic]]\n{second}", facts).vms[0].nics) == 2
    with pytest.raises(ConfigError, match=r"IOMMU group 12, of which vm\.a has"):
        lab(CARD + '[vm.b]\nboot.guest = "tiny"\nuser = "1001"\n[[vm.b.nic]]\n' + second, facts)


@pytest.mark.parametrize(
    ("facts", "lacking", "remedy"),
    [
        (FACTS, f"the PCI device {DEVICE}", "lspci -D"),
        (host(network=False), f"a network card at {DEVICE}", "lspci -s"),
        (host(group=None), f"an IOMMU group of {DEVICE}", "intel_iommu=on"),
        (
            host(driver="ixgbevf"),
            "the driver vfio-pci at 0000:03:00.1 (ixgbevf has it)",
            BINDING,
        ),
        (host(driver=""), "vfio-pci at 0000:03:00.1 (it has none)", "drivers_probe"),
        (
            host(beside=(("0000:03:00.0", "ixgbe"), ("0000:03:00.2", ""), ("0000:03:00.3", "vfio-pci"))),
            "at 0000:03:00.0 (ixgbe has it), which is in IOMMU group 12, too",
            "driverctl set-override 0000:03:00.0 vfio-pci",
        ),
        (host(vfio=False), "/dev/vfio/vfio", "modprobe vfio"),
        (host(node=None), "/dev/vfio/12", "container"),
        (
            host(node=replace(NODE, uid=0)),
            "the right of QEMU, which is not root (1001), to read and write",
            "udev rule",
        ),
        (host(memlock=8 << 20), "a limit of locked memory of 576M for vm.a", "ulimit -l unlimited"),
    ],
)
def test_what_the_host_lacks_is_told_with_the_remedy(facts: Facts, lacking: str, remedy: str) -> None:
    """Exit status 3, and the very commands; none of them is run."""
    with pytest.raises(HostLacks) as caught:
        card(facts=facts)
    assert lacking in str(caught.value)
    assert remedy in caught.value.hint


def test_all_that_is_lacking_is_told_at_once() -> None:
    facts = host(8 << 20, driver="ixgbe", beside=(("0000:03:00.0", "ixgbe"),))
    with pytest.raises(HostLacks) as caught:
        card(facts=facts)
    assert [DEVICE in one or "0000:03:00.0" in one for one in caught.value.lacks] == [True] * 3


def test_who_is_not_root_needs_the_node_for_himself() -> None:
    mine = replace(host(), uid=1001, can_switch_user=False)
    text = CARD.replace('user = "sara"\n', "")
    assert lab(text, mine).vms[0].run_as is None
    closed = replace(mine, devices={DEVICE: replace(READY, node=replace(NODE, opened=False))})
    with pytest.raises(HostLacks, match="the right of user 1001"):
        lab(text, closed)


def test_a_group_may_have_the_node() -> None:
    assert card(facts=host(node=NodeFact(0, 1002, 0o660, opened=True))).backend == HostdevBackend(DEVICE)


def test_a_device_that_another_lab_has_is_taken() -> None:
    facts = replace(host(), claims={f"pci/{DEVICE}": "vm/other"})
    with pytest.raises(Taken, match="in use by vm/other"):
        build(lab(CARD, facts), facts)


def test_a_group_of_which_a_guest_that_runs_has_a_device_is_taken() -> None:
    """What the guest itself has is not in its way."""
    facts = host(beside=(("0000:03:00.2", "vfio-pci"),))
    assert card(facts=replace(facts, claims={"pci/0000:03:00.2": "vm/a"})).backend == HostdevBackend(DEVICE)
    with pytest.raises(Taken, match=r"vm\.other, which runs, has 0000:03:00.2"):
        card(facts=replace(facts, claims={"pci/0000:03:00.2": "vm/other"}))


def test_a_device_that_the_guest_has_is_not_asked_for_again() -> None:
    """Another card may come from a shell with another limit, and the device may have gone by itself."""
    spec = read.loads(CARD, FILE)
    facts = replace(host(memlock=1 << 16), claims={f"pci/{DEVICE}": "vm/a"})
    for seen in (facts, replace(facts, devices={})):
        found = resolve.resolve(spec, profiles.load_all(spec), seen, running=True)
        assert found.vms[0].nics[0].backend == HostdevBackend(DEVICE)
    with pytest.raises(HostLacks, match="locked memory"):
        resolve.resolve(spec, profiles.load_all(spec), replace(facts, claims={}), running=True)


def test_qemu_is_told_of_the_device_and_of_no_backend() -> None:
    facts = host()
    found = lab(CARD, facts)
    plan = build(found, facts)
    claimed = [one.path for part in plan.parts() for one in part.steps if isinstance(one, Claim)]
    assert f"/run/qemunet/claims/pci/{DEVICE}" in claimed
    assert not any("/mac/" in one for one in claimed)
    assert "-netdev" not in text.text(plan)


def test_it_is_plugged_in_and_out_without_a_backend() -> None:
    facts = host()
    found = lab(CARD, facts)
    nic = found.vms[0].nics[0]
    planned = plug.add(found, found.vms[0], nic, {"bus": "rp.3", "addr": "0x0"}, facts)
    steps = [one for part in planned.guest for one in part.steps]
    assert not any(isinstance(one, AddNetdev) for one in steps)
    (added,) = [one for one in steps if isinstance(one, AddCard)]
    assert json.loads(str(added.properties)) == {
        "driver": "vfio-pci",
        "id": "net0",
        "host": DEVICE,
        "bus": "rp.3",
        "addr": "0x0",
        "acpi-index": 1,
        "romfile": "",
    }


def test_the_tables_show_mode_and_device() -> None:
    row = nic_record(card())
    assert (row.mode, row.device, row.mac) == ("hostdev", DEVICE, "")
    shown = nic_json(VmRecord("a", "lab", "/lab/lab.toml", "q35", "tcg", (row,)), row)
    assert (shown["mode"], shown["device"], shown["mac"]) == ("hostdev", DEVICE, None)
    assert live.behind(card()) == f"hostdev {DEVICE}"
    assert live.Add("a", card()).describe() == f"plug in net0 (vfio-pci, hostdev {DEVICE})"


def test_its_frames_cannot_be_cut_off_and_the_card_stays() -> None:
    """Said before the guest is asked for it."""
    rows = SimpleNamespace(nics=(nic_record(card()),))
    keeper = SimpleNamespace(worker=SimpleNamespace(runtime=SimpleNamespace(vm=lambda name: rows)))
    guest = SimpleNamespace(vm="a")
    with pytest.raises(UsageError, match=f"is the device {DEVICE} itself"):
        asyncio.run(Cards(keeper).remove(guest, DEVICE, 20, cut=True))  # type: ignore[arg-type]


def test_a_card_that_becomes_a_device_loses_what_that_cannot_have() -> None:
    old = NicSpec(network="lab", mac="52:54:00:00:00:01", model="e1000", ip=("10.0.0.2/24",))
    wanted = NicSpec(mode=NicMode.HOSTDEV, device=DEVICE)
    assert edit.changed(old, wanted) == wanted
    assert edit.changed(wanted, NicSpec(network="lab")) == NicSpec(network="lab")
