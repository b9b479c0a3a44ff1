"""A spec and a photograph make a complete lab, or say what stands in the way: the file, the host, or somebody else."""

from __future__ import annotations

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.config.notes import notes
from qemunet.errors import ConfigError, HostLacks, NotFound, Taken
from qemunet.facts import Facts, RouteFact
from qemunet.frozen import replace
from qemunet.model import mac
from qemunet.model.network import ForeignBridge, NetworkMode, OwnBridge
from qemunet.model.nic import (
    LinkState,
    MacvtapBackend,
    MacvtapMode,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import Accel, DirectBoot, Disk, FirmwareBoot, ImageFile, NicBus, RunAs
from tests.unit.config_host import FACTS, FILE, GUEST, lab

NIC = "[vm.a]\n[[vm.a.nic]]\n"
DISK = "[vm.a]\n[[vm.a.disk]]\n"
ORDINARY = replace(FACTS, uid=1001, can_switch_user=False)


def nic(text: str, facts: Facts = FACTS, *, strict: bool = True) -> Nic:
    return lab(text, facts, strict=strict).vms[0].nics[0]


def disk(text: str, facts: Facts = FACTS) -> Disk:
    return lab(DISK + text, facts).vms[0].disks[0]


# ---------------------------------------------------------------- vms


def test_an_empty_vm_is_what_the_documentation_says() -> None:
    """q35, 512M, one processor, firmware boot, one card in user mode."""
    (vm,) = lab("[vm.a]\n").vms
    assert (vm.machine.profile, vm.machine.type, vm.machine.nic_bus) == ("q35", "q35", NicBus.ROOT_PORTS)
    assert (vm.memory, vm.cpus, vm.accel, vm.machine.hotplug_slots) == (512 << 20, 1, Accel.AUTO, 8)
    assert vm.boot == FirmwareBoot(("disk", "network", "cdrom"))
    assert vm.display is None
    assert [card.backend for card in vm.nics] == [UserBackend()]
    assert (vm.nics[0].id, vm.nics[0].model, vm.nics[0].link) == ("net0", "virtio-net-pci", LinkState.UP)


def test_a_vm_may_have_no_card() -> None:
    """`nic = []`."""
    assert lab("[vm.a]\nnic = []\n").vms[0].nics == ()


def test_the_file_wins_over_the_profile_and_the_profile_over_the_default() -> None:
    """Legacy has e1000 cards and IDE disks."""
    text = (
        '[vm.a]\nprofile = "legacy"\n[[vm.a.disk]]\nfile = "raw.img"\n[[vm.a.nic]]\n[[vm.a.nic]]\nmodel = "rtl8139"\n'
    )
    (vm,) = lab(text).vms
    assert [card.model for card in vm.nics] == ["e1000", "rtl8139"]
    assert vm.disks[0].bus == "ide"
    assert vm.machine.hotplug_slots == 0


def test_a_vm_may_differ_from_its_profile() -> None:
    """Its machine table says how."""
    (vm,) = lab('[vm.a]\nmachine.cpu-tcg = "max"\nmachine.type = "q35,smm=off"\n').vms
    assert (vm.machine.cpu_tcg, vm.machine.type, vm.machine.cpu_kvm) == ("max", "q35,smm=off", "host")


def test_the_built_in_guest_is_a_direct_boot() -> None:
    """With the kernel line it always wants."""
    assert lab('[vm.a]\nboot.guest = "tiny"\n').vms[0].boot == DirectBoot(*_guest(), tiny=True)


def _guest() -> tuple[str, str, str]:
    return GUEST.kernel, GUEST.initrd, GUEST.append


def test_paths_are_relative_to_the_file() -> None:
    """Not to where one happens to be."""
    text = '[vm.a]\nboot.kernel = "./x/../vmlinuz"\nboot.initrd = "/lab/initrd.img"\n'
    assert lab(text).vms[0].boot == DirectBoot("/lab/vmlinuz", "/lab/initrd.img", "")


def test_every_vm_gets_a_uid_that_nobody_has() -> None:
    """The lowest free ones, and its own again if it has one."""
    facts = replace(FACTS, claims={f"uid/{0x70000000}": "vm/other", f"uid/{0x70000005}": "vm/c"})
    found = [vm.run_as for vm in lab("[vm.a]\n[vm.b]\n[vm.c]\n", facts).vms]
    assert found == [RunAs(uid, uid) for uid in (0x70000001, 0x70000002, 0x70000005)]


def test_another_runtime_directory_has_other_uids() -> None:
    """Neither knows what the other has given away, so each has a range of its own."""
    uids = {lab("[vm.a]\n", replace(FACTS, runtime=f"/run/{name}")).vms[0].run_as.uid >> 12 for name in "abcdefgh"}
    assert len(uids) == 8
    assert all(0x70000 < uid < 0x80000 for uid in uids)


@pytest.mark.parametrize(
    ("user", "facts", "run_as"),
    [
        ("sara", FACTS, RunAs(1001, 1002)),
        ("1234", FACTS, RunAs(1234, 1234)),
        ("1234:5", FACTS, RunAs(1234, 5)),
        ("auto", ORDINARY, None),
        ("sara", ORDINARY, None),
        ("auto", replace(FACTS, can_switch_user=False), None),
    ],
)
def test_qemu_runs_as_whom_the_file_says(user: str, facts: Facts, run_as: RunAs | None) -> None:
    """Who cannot leave his own identity keeps it."""
    assert lab(f'[vm.a]\nuser = "{user}"\n', facts).vms[0].run_as == run_as


def test_an_ordinary_user_cannot_be_somebody_else() -> None:
    """The host lacks the right to it, but the plan can be seen."""
    with pytest.raises(HostLacks, match="the right to run QEMU as 4711"):
        lab('[vm.a]\nuser = "4711"\n', ORDINARY)
    assert lab('[vm.a]\nuser = "4711"\n', ORDINARY, strict=False).vms[0].run_as is None


@pytest.mark.parametrize("user", ["root", "0", "0:0"])
def test_nobody_can_have_qemu_run_as_root(user: str) -> None:
    with pytest.raises(ConfigError, match=r"vm\.a\.user: QEMU is not run as root"):
        lab(f'[vm.a]\nuser = "{user}"\n')


def test_only_the_chosen_vms_and_their_networks_are_in_the_lab() -> None:
    """What the others would need is nobody's business now."""
    text = '[network.n]\n[network.m]\nmode = "bridge"\nbridge = "none"\n[vm.a]\n[[vm.a.nic]]\nnetwork = "n"\n'
    text += '[vm.b]\nboot.kernel = "nowhere"\n[[vm.b.nic]]\nnetwork = "m"\n'
    found = lab(text, FACTS, "a")
    assert ([vm.name for vm in found.vms], [net.name for net in found.networks]) == (["a"], ["n"])
    with pytest.raises(NotFound, match='there is no vm "aa"'):
        lab(text, FACTS, "aa")


# ---------------------------------------------------------------- disks


@pytest.mark.parametrize(
    ("text", "path", "format_"),
    [
        ('file = "base.qcow2"', "/lab/base.qcow2", "qcow2"),
        ('file = "raw.img"', "/lab/raw.img", "raw"),
        ('file = "plain"\nformat = "raw"', "/lab/plain", "raw"),
        ('file = "new"\nsize = "1G"', "/lab/new", "qcow2"),
        ('file = "new.img"\nsize = "1G"', "/lab/new.img", "raw"),
        ('file = "looks-qcow2.img"', "/lab/looks-qcow2.img", "raw"),
        ('file = "looks-qcow2.img"\nformat = "qcow2"', "/lab/looks-qcow2.img", "qcow2"),
    ],
)
def test_a_format_comes_from_words_and_names(text: str, path: str, format_: str) -> None:
    """Never from contents, which a guest may have written."""
    assert disk(text).image == ImageFile(path, format_)


def test_a_disk_is_made_only_if_it_is_not_there() -> None:
    """The size of one that is there is its own."""
    assert disk('file = "new.qcow2"\nsize = "1G"').create == 1 << 30
    assert disk('file = "base.qcow2"\nsize = "1G"').create is None


def test_backing_files_that_one_could_read_oneself_are_followed() -> None:
    """All the way down."""
    base, over = ImageFile("/lab/base.qcow2", "qcow2"), ImageFile("/lab/over.qcow2", "qcow2")
    assert disk('file = "over.qcow2"').backing == (base,)
    assert disk('file = "third.qcow2"').backing == (over, base)
    assert disk('file = "third.qcow2"\nbacking = "over.qcow2"').backing == (over, base)
    assert disk('file = "third.qcow2"\nbacking = ["over.qcow2", "base.qcow2"]').backing == (over, base)


def test_a_backing_file_that_one_could_not_read_is_followed_if_the_file_names_it() -> None:
    """A header alone would let a guest read the host."""
    assert disk('file = "evil.qcow2"\nbacking = "secret"').backing == (ImageFile("/lab/secret", "raw"),)


@pytest.mark.parametrize(("profile", "bus"), [("q35", "sata"), ("pc", "ide"), ("microvm", "scsi"), ("legacy", "ide")])
def test_a_cd_is_where_the_machine_has_drives(profile: str, bus: str) -> None:
    """It is never written."""
    text = f'[vm.a]\nprofile = "{profile}"\n[[vm.a.disk]]\nfile = "cd.iso"\ncdrom = true\n'
    found = lab(text).vms[0].disks[0]
    assert (found.bus, found.readonly, found.image.format) == (bus, True, "raw")


def test_a_file_that_the_user_may_not_read_is_refused() -> None:
    """For root it is opened whoever owns it."""
    text = '[vm.a]\nboot.kernel = "secret"\n'
    with pytest.raises(ConfigError, match="permission denied"):
        lab(text, ORDINARY)
    assert lab(text).vms[0].boot == DirectBoot("/lab/secret", None, "")


# ---------------------------------------------------------------- cards


def test_a_mac_depends_on_machine_lab_vm_and_card() -> None:
    """And on nothing else, so that it stays."""
    expected = mac.stable("0123", "lab-lab", "a", "net0")
    assert nic('[vm.lab]\n[vm.a]\n[[vm.a.nic]]\nbridge = "br0"\n'.replace("[vm.lab]", "[network.lab]")).mac == expected
    assert nic(NIC + 'mac-prefix = "de:ad:be"').mac.startswith("de:ad:be:")
    assert nic(NIC + 'mac = "DE-AD-BE-00-00-01"').mac == "de:ad:be:00:00:01"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("virtio", "virtio-net-pci"),
        ("virtio-net", "virtio-net-pci"),
        ("virtio-net-pci", "virtio-net-pci"),
        ("e1000", "e1000"),
        ("e1000e", "e1000e"),
        ("rtl8139", "rtl8139"),
        ("vmxnet3", "vmxnet3"),
        ("pcnet", "pcnet"),
        ("ne2k_pci", "ne2k_pci"),
        ("tulip", "tulip"),
        ("i82551", "i82551"),
    ],
)
def test_a_model_has_short_names(name: str, model: str) -> None:
    """And always its own."""
    assert nic(f'{NIC}model = "{name}"').model == model


def test_on_a_microvm_virtio_is_its_own_device() -> None:
    """And there is no ACPI to number cards."""
    found = nic('[vm.a]\nprofile = "microvm"\n')
    assert (found.model, found.acpi_index) == ("virtio-net-device", None)


def test_cards_are_numbered_around_the_numbers_that_are_given() -> None:
    """By position otherwise."""
    text = "[vm.a]\n[[vm.a.nic]]\n[[vm.a.nic]]\nacpi-index = 3\n[[vm.a.nic]]\n[[vm.a.nic]]\nacpi-index = 1\n"
    assert [card.acpi_index for card in lab(text).vms[0].nics] == [2, 3, 4, 1]


def test_a_card_on_a_network_is_a_tap_on_its_bridge() -> None:
    """Without a word about modes."""
    text = '[network.lab]\nbridge = "virbr4"\nmtu = 9000\n' + NIC + 'network = "lab"\n'
    found = nic(text)
    assert found.backend == TapBackend("qn-a-net0", 9000, OnNetwork("lab", "virbr4"))
    assert found.guest_mtu == 9000


def test_a_card_on_an_existing_bridge_takes_its_mtu() -> None:
    """By either of its names."""
    found = nic(NIC + 'bridge = "br9"\nifname = "tap7"\n')
    assert found.backend == TapBackend("tap7", 9000, OnBridge("br9"))
    assert nic(NIC + 'bridge = "br9"\nmtu = 1400\n').guest_mtu == 1400
    renamed = replace(FACTS.links["br9"], altnames=("a-very-long-bridge-name",))
    facts = replace(FACTS, links={"br9": renamed})
    assert nic(NIC + 'bridge = "a-very-long-bridge-name"\n', facts).backend == TapBackend(
        "qn-a-net0", 9000, OnBridge("br9")
    )


def test_a_card_on_nothing_is_a_cable_to_the_host() -> None:
    """With addresses and routes of the host."""
    found = nic(NIC + 'mode = "tap"\naddress = "10.0.0.1/30"\nroutes = ["10.99.0.0/24"]\nmtu = 1400\n')
    assert found.backend == TapBackend("qn-a-net0", 1400, PointToPoint(("10.0.0.1/30",), ("10.99.0.0/24",)))
    assert nic(NIC + 'address = "10.0.0.1/30"\n').backend == TapBackend(
        "qn-a-net0", 1500, PointToPoint(("10.0.0.1/30",))
    )


@pytest.mark.parametrize("mode", MacvtapMode)
def test_a_macvtap_is_on_its_parent(mode: MacvtapMode) -> None:
    """Whose MTU it has; in mode passthru it has its address as well."""
    found = nic(f'{NIC}parent = "eth9"\nmacvtap = "{mode}"\n')
    assert found.backend == MacvtapBackend("qn-a-net0", "eth9", mode, 9000)
    assert (found.mac == FACTS.links["eth9"].mac) is (mode is MacvtapMode.PASSTHRU)
    assert nic(NIC + 'parent = "enp1s0"\n').backend == MacvtapBackend("qn-a-net0", "eth1", MacvtapMode.BRIDGE, 1500)


HERE = replace(
    FACTS,
    addresses={"eth1": ("198.51.100.1/24", "192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"), "br0": ("10.0.0.1/8",)},
)
JOINED = NIC + 'parent = "enp1s0"\nhost-macvlan = true\n'


def test_a_macvlan_of_the_host_leads_to_each_address_of_the_card() -> None:
    """From the parent's address in the guest's own subnet, else from its first of that kind."""
    found = nic(JOINED + 'ip = ["192.0.2.11/24", "10.0.0.9/8", "2001:db8::11/64"]\n', HERE).backend
    assert isinstance(found, MacvtapBackend)
    assert found.host is not None
    assert (found.host.ifname, found.host.answers) == ("qn-host-eth1", ("2001:db8::1",))
    assert found.host.ways == (
        ("192.0.2.11", "192.0.2.1"),
        ("10.0.0.9", "198.51.100.1"),
        ("2001:db8::11", "2001:db8::1"),
    )
    other = nic(JOINED + 'ip = "192.0.2.12/24"\nid = "other"\n', HERE).backend
    assert isinstance(other, MacvtapBackend)
    assert other.host is not None
    assert other.host.mac == found.host.mac != nic(JOINED + 'ip = "192.0.2.12/24"\n', HERE).mac


def test_a_macvlan_of_the_host_needs_an_address_to_be_found_at() -> None:
    """The parent's, in each family of the card's; what is only looked at may lack it."""
    text = JOINED + 'ip = ["192.0.2.11/24", "2001:db8::11/64"]\n'
    with pytest.raises(HostLacks, match=r"an IPv4 address on eth1, .* an IPv6 address on eth1"):
        lab(text, FACTS)
    assert lab(text, FACTS, strict=False)


def test_an_address_that_is_routed_elsewhere_is_taken() -> None:
    """As a route of a point-to-point card is."""
    routed = replace(HERE, routes=(RouteFact("192.0.2.11/32", "br0"),))
    with pytest.raises(Taken, match=r"192\.0\.2\.11/32 is routed through br0"):
        lab(JOINED + 'ip = "192.0.2.11/24"\n', routed)


def test_the_host_is_looked_at_where_its_macvlan_will_be() -> None:
    """Its addresses, and whether somebody has the name."""
    spec = read.loads(NIC + 'parent = "eth1"\nhost-macvlan = true\n', FILE)
    found = resolve.wanted(spec, profiles.load_all(spec))
    assert "qn-host-eth1" in found.links
    assert found.routes


@pytest.mark.parametrize(
    ("keys", "queues"),
    [
        ('bridge = "br0"\nqueues = "auto"', 8),
        ('bridge = "br0"\nqueues = 2', 2),
        ('bridge = "br0"\nmodel = "e1000"\nqueues = "auto"', 1),
        ('parent = "eth1"\nqueues = "auto"', 8),
        ('bridge = "br0"', 1),
    ],
)
def test_queues_follow_the_processors(keys: str, queues: int) -> None:
    """At most eight, and only where there can be more than one."""
    assert nic(f"[vm.a]\ncpus = 12\n[[vm.a.nic]]\n{keys}\n").queues == queues


@pytest.mark.parametrize(
    ("keys", "there", "vhost"),
    [
        ('bridge = "br0"', True, True),
        ('bridge = "br0"', False, False),
        ('bridge = "br0"\nvhost = "off"', True, False),
        ('bridge = "br0"\nvhost = "on"', True, True),
        ('bridge = "br0"\nmodel = "e1000"', True, False),
        ("", True, False),
    ],
)
def test_vhost_is_used_where_it_can_be(keys: str, *, there: bool, vhost: bool) -> None:
    """It is decided here."""
    assert nic(f"{NIC}{keys}\n", replace(FACTS, vhost_net=there)).vhost is vhost


def test_scripts_are_found() -> None:
    """Beside the lab file."""
    assert nic(NIC + 'mode = "tap"\nifup = "up.sh"\n').hook.up == "/lab/up.sh"


# ---------------------------------------------------------------- networks


def test_a_network_is_isolated_unless_it_says_otherwise() -> None:
    """Its address is the same in every lab file that declares it."""
    (network,) = lab('[network.lab]\naddress = ["10.0.0.1/24", "fd77::1/64"]\n').networks
    expected = OwnBridge(
        "qn-lab", mac.stable("0123", "network", "lab"), 1500, False, 0, 300, ("10.0.0.1/24", "fd77::1/64")
    )
    assert (network.mode, network.switch, network.keep) == (NetworkMode.ISOLATED, expected, False)


def test_stp_waits_as_long_as_the_kernel_wants() -> None:
    """Two seconds at least."""
    (network,) = lab("[network.lab]\nstp = true\n").networks
    assert isinstance(network.switch, OwnBridge)
    assert (network.switch.stp, network.switch.forward_delay) == (True, 2)


def test_an_existing_bridge_is_used_as_it_is() -> None:
    """With the MTU it has."""
    (network,) = lab('[network.lab]\nmode = "bridge"\nbridge = "br9"\n').networks
    assert network.switch == ForeignBridge("br9", 9000)


# ---------------------------------------------------------------- what stands in the way


def test_everything_that_is_lacking_is_said_at_once() -> None:
    """With the remedies."""
    text = NIC + 'bridge = "none"\nvhost = "on"\n[[vm.a.nic]]\nparent = "eth7"\n[vm.b]\nboot.guest = "tiny"\n'
    with pytest.raises(HostLacks) as caught:
        lab(text, replace(FACTS, guest=None, programs={}, tun=False))
    assert caught.value.lacks == (
        "qemu-system-x86_64",
        "/dev/net/tun",
        "the bridge none",
        "/dev/vhost-net",
        "the interface eth7",
        "the built-in guest",
    )
    assert "`qemunet guest build` makes it" in caught.value.hint


def test_an_ordinary_user_is_told_what_he_may_not() -> None:
    """User mode is for him."""
    with pytest.raises(HostLacks, match=r"the right to make a bridge .* the right to make a tap"):
        lab('[network.lab]\n[vm.a]\n[[vm.a.nic]]\nnetwork = "lab"\n', ORDINARY)
    assert nic("[vm.a]\n", ORDINARY).backend == UserBackend()


def test_a_kvm_that_does_not_work_is_lacking_only_if_it_is_wanted() -> None:
    """By name, that is."""
    facts = replace(FACTS, kvm={"host": "it does not answer"})
    with pytest.raises(HostLacks, match="it does not answer"):
        lab('[vm.a]\naccel = "kvm"\n', facts)
    assert lab("[vm.a]\n", facts).vms[0].accel is Accel.AUTO


def test_what_is_lacking_does_not_keep_one_from_looking() -> None:
    """A plan is made for the host as it would be."""
    text = NIC + 'bridge = "none"\n[[vm.a.nic]]\nparent = "eth7"\nmacvtap = "passthru"\n[vm.b]\nboot.guest = "tiny"\n'
    found = lab(text, replace(ORDINARY, guest=None, programs={}, links={}), strict=False)
    boot = found.vms[1].boot
    assert isinstance(boot, DirectBoot)
    assert (boot.kernel, boot.tiny) == ("<built-in guest>/vmlinuz", True)
    assert found.vms[0].nics[0].backend == TapBackend("qn-a-net0", 1500, OnBridge("none"))


def test_an_address_of_a_running_vm_is_taken() -> None:
    """Unless it is this very one."""
    text = NIC + 'mac = "52:54:00:00:00:01"\n'
    with pytest.raises(Taken, match=r"52:54:00:00:00:01 is the address of a card of vm other, which runs") as caught:
        lab(text, replace(FACTS, claims={"mac/52:54:00:00:00:01": "vm/other"}))
    assert caught.value.where == f"{FILE}: vm.a.nic[0].mac"
    assert nic(text, replace(FACTS, claims={"mac/52:54:00:00:00:01": "vm/a"}))
    assert nic(text, replace(FACTS, claims={"mac/52:54:00:00:00:01": "vm/other"}), strict=False)


def test_an_address_that_the_bridge_has_seen_is_taken() -> None:
    """Two hosts with one address reach nobody."""
    text = NIC + 'mac = "52:54:00:00:00:01"\nbridge = "br0"\n'
    with pytest.raises(Taken, match="somebody on br0 has the address"):
        lab(text, replace(FACTS, macs_on_bridge={"br0": frozenset({"52:54:00:00:00:01"})}))
    assert nic(text, replace(FACTS, macs_on_bridge={"br9": frozenset({"52:54:00:00:00:01"})}))


def test_a_network_that_is_routed_elsewhere_is_taken() -> None:
    """The guest would take it from whoever has it."""
    text = NIC + 'mode = "tap"\nroutes = ["10.99.0.0/24"]\n'
    with pytest.raises(Taken, match=r"10\.99\.0\.0/24 is routed through eth1"):
        lab(text, replace(FACTS, routes=(RouteFact("10.99.0.0/24", "eth1"),)))
    assert nic(text, replace(FACTS, routes=(RouteFact("10.99.0.0/24", "qn-a-net0"), RouteFact("default", "eth1"))))


def test_a_port_of_a_bridge_is_no_parent() -> None:
    """The kernel would refuse it with EBUSY."""
    with pytest.raises(Taken, match="eth2 is a port of br0") as caught:
        lab(NIC + 'parent = "eth2"\n')
    assert 'bridge = "br0"' in caught.value.hint


# ---------------------------------------------------------------- what to look at, and what to say


def test_a_photograph_shows_what_matters_and_no_more() -> None:
    """Names of ours, existing ones, files, programs."""
    text = '[network.lab]\nmode = "private"\n[vm.a]\nboot.kernel = "vmlinuz"\n'
    text += '[[vm.a.disk]]\nfile = "x.qcow2"\nsize = "1G"\n'
    text += (
        '[[vm.a.nic]]\nnetwork = "lab"\n[[vm.a.nic]]\nparent = "eth1"\n[[vm.a.nic]]\nbridge = "br0"\nifup = "up.sh"\n'
    )
    spec = read.loads(text, FILE)
    found = resolve.wanted(spec, profiles.load_all(spec))
    ours = {"qn-lab", "qn-a-net0", "qn-a-net1", "qn-a-net2"}
    marks = {"qemunet.net-lab.bridge", "qemunet.vm-a.net0", "qemunet.vm-a.net1", "qemunet.vm-a.net2"}
    assert found.links == ours | marks | {"eth1", "br0"}
    assert found.bridges == {"qn-lab", "br0"}
    assert found.files == {"/lab", "/lab/vmlinuz", "/lab/x.qcow2", "/lab/up.sh"}
    assert found.programs == {"qemu-system-x86_64", "qemu-img"}
    assert not found.routes
    assert not found.guest


def test_an_isolated_network_takes_a_program_for_its_rules() -> None:
    """Nobody else keeps it apart; a private one is apart by itself."""
    spec = read.loads("[network.lab]\n", FILE)
    assert "nft" in resolve.wanted(spec, profiles.load_all(spec)).programs


def test_routes_are_looked_at_for_a_cable_to_the_host() -> None:
    """And the built-in guest for who boots it."""
    spec = read.loads('[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nmode = "tap"\n', FILE)
    found = resolve.wanted(spec, profiles.load_all(spec))
    assert (found.routes, found.guest) == (True, True)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("[vm.a]\n", "vm.a.nic[0]: in user mode ping may find nobody"),
        (NIC + 'mode = "tap"\n', "vm.a.nic[0]: no address"),
        (
            NIC + 'parent = "eth1"\n',
            "vm.a.nic[0]: by way of eth1 the guest reaches everybody but this host; host-macvlan",
        ),
        (NIC + 'parent = "eth1"\nmacvtap = "vepa"\n', "vm.a.nic[0]: by way of eth1 the guest reaches everybody but"),
        (
            "[vm.a]\nnic = []\n[[vm.a.disk]]\nfile = 'looks-qcow2.img'\n",
            "vm.a.disk[0]: /lab/looks-qcow2.img is used as raw",
        ),
    ],
)
def test_what_surprises_people_is_worth_a_note(text: str, note: str) -> None:
    """It is no error."""
    (found,) = notes(lab(text), FACTS)
    assert found.startswith(note)


def test_what_is_so_several_times_is_noted_once() -> None:
    """A lab of twenty cards is not twenty times as surprising."""
    (found,) = notes(lab("[vm.a]\n[vm.b]\n[[vm.b.nic]]\n[[vm.b.nic]]\n"), FACTS)
    assert found == "vm.a.nic[0] and 2 more: in user mode ping may find nobody though TCP and UDP do"


def test_nothing_to_note_is_no_note() -> None:
    """Most labs."""
    assert notes(lab('[network.n]\n[vm.a]\n[[vm.a.nic]]\nnetwork = "n"\n'), FACTS) == ()
