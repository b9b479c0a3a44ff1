"""The vocabulary: what each step says, how it is taken back, and what a shell would do instead."""

from __future__ import annotations

from typing import get_args

import pytest

from qemunet.facts import Facts, FileFact, LinkFact, RouteFact
from qemunet.frozen import replace
from qemunet.journal import from_json, to_json
from qemunet.model.nic import MacvtapMode
from qemunet.model.vlan import Vlans
from qemunet.model.vm import RunAs
from qemunet.steps import (
    AddAddress,
    AddCard,
    AddChardev,
    AddLink,
    AddNeighbour,
    AddNetdev,
    AddNetns,
    AddRoute,
    AdoptTap,
    AwaitQemu,
    BridgeLink,
    Bucket,
    ChangePort,
    Claim,
    CreateImage,
    DelAddress,
    DelCard,
    DelChardev,
    DelGroup,
    DelLink,
    DelNeighbour,
    DelNetdev,
    DelNetns,
    DelRoute,
    Divert,
    DropTable,
    EndDaemon,
    EndQemu,
    FilterVlans,
    Handle,
    IfbLink,
    Impair,
    Impairment,
    In,
    IpAddress,
    IpRoute,
    Limit,
    LoadFile,
    LoadTable,
    MacvlanLink,
    MacvtapLink,
    Mark,
    NameNetns,
    OpenFile,
    OpenMacvtap,
    OpenOverlay,
    OpenSocket,
    OpenTap,
    PinBridge,
    PlugPort,
    PutAddress,
    PutRoute,
    Reconfigure,
    RemoveFile,
    RemoveImage,
    RemoveSocket,
    Reserve,
    Resume,
    RunHook,
    SetCarrier,
    SetForwards,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetOffload,
    SetPort,
    SetSysctl,
    SetVlans,
    StartDaemon,
    StartQemu,
    Step,
    TakeAddress,
    TakeRoute,
    Unclaim,
    Undivert,
    Unimpair,
    Unlimit,
    UnnameNetns,
    UnplugPort,
    Unreserve,
    VethLink,
    Way,
    Word,
    WriteFile,
    sysctl_name,
)

NOTHING = Facts(runtime="/r", machine_id="m", uid=0, can_switch_user=True)
MARK = Mark("vm/a", "net0", 1 << 30)
BR0 = LinkFact(3, "br0", "bridge", "52:54:00:aa:00:01", 1500, up=True, master=None)
THERE = replace(
    NOTHING,
    links={"br0": BR0, "p0": replace(BR0, name="p0", kind="veth", master="br1", up=False)},
    addresses={"br0": ("10.0.0.1/24",)},
    routes=(RouteFact("10.9.0.0/24", "br0"),),
    sysctls={"net.ipv4.conf.br0.forwarding": "0"},
    files={"/d/x": FileFact("/d/x", 1, regular=True, readable=True)},
)
BRIDGE = AddLink("br0", BridgeLink("52:54:00:aa:00:01", 1500), MARK)
MACVTAP = AddLink("mv0", MacvtapLink("eth1", MacvtapMode.VEPA, "52:54:00:00:00:01", 1400), MARK)
MACVLAN = AddLink("mv1", MacvlanLink("eth1", "52:54:00:00:00:02", 1400), MARK)
SOCKET = OpenSocket("a:net1", "vm.a.nic net1", listen="unix:/lab/wire")
TAP = OpenTap("a:net0", "t0", MARK, "fe:54:00:00:00:01", 1400, "br0", 2)
IFB = AddLink("ifb0", IfbLink("fe:54:00:00:00:01", 1400), MARK)
CABLE = AddLink(
    "h0", VethLink("p0", "52:54:00:00:00:03", "fe:54:00:00:00:03", 1400, "port"), replace(MARK, part="host")
)
BAD, WORSE = Impairment(delay=20_000, loss=10_000), Impairment(1_500_000, 500_000, 1, 2, 3, 500)
SLOW, FAST = Bucket(8_000_000, 15_000, 65_000), Bucket(1_500_000_000, 1_875_000, 11_250_000)
HOOK = RunHook("/up", "/down", "t0", (("QEMUNET_VM", "a b"),))
START = StartQemu(
    "a", "/r/vm/a", (Word(("fd=", Handle("a:net0"))),), ("qemu-system-x86_64",), RunAs(64000, 64000), (104,)
)
NETDEV = AddNetdev("a", "host-net0", Word(('{"type":"tap","id":"host-net0","fd":"', Handle("a:net0"), '"}')))
CARD = AddCard("a", "net0", Word(('{"driver":"virtio-net-pci","id":"net0"}',)))
FORWARDS = SetForwards("a", "host-net0", add=("tcp:127.0.0.1:8080-:80",), remove=("tcp::22-:22",))
TABLE = LoadTable("qemunet-lab-40000000", MARK, "table inet qemunet-lab-40000000 {\n    chain x {\n    }\n}\n")
DAEMON = StartDaemon(
    "dnsmasq", "/r/net/lab", (Word(("dnsmasq",)),), "network.lab", "started", 64000, ("leases",), ("dnsmasq",)
)
ADDRESS = IpAddress("10.0.0.5/24", None, "10.0.0.255", "eth1:1", 253, 0x200, 9000, 100, 3, 50)
ROUTE = IpRoute(
    "0.0.0.0/0",
    (Way("eth1", 5, "10.0.0.1"),),
    table=99,
    protocol=2,
    scope=253,
    tos=16,
    metric=100,
    source="10.0.0.5",
    options=((1, 4), (2, 1400), (13, 40)),
    expires=9000,
)
OPPOSITES = (SetForwards, PlugPort, UnplugPort, ChangePort, PutAddress, TakeAddress, PutRoute, TakeRoute)
EVERY: list[Step] = [
    AdoptTap("a:net0", "tap7", 7, 2),
    AddChardev("a", "host-net1", "/run/sw"),
    DelChardev("a", "host-net1"),
    SOCKET,
    RemoveSocket("a:net1", "/lab/wire"),
    BRIDGE,
    MACVTAP,
    MACVLAN,
    DelLink("br0", MARK),
    DelGroup((DelLink("br0", MARK), DelLink("br1", MARK))),
    SetLink("br0", up=True, mtu=1400, mac="52:54:00:aa:00:02"),
    SetMaster("p0", "br0"),
    SetPort("p0", isolated=True),
    FilterVlans("br0"),
    SetVlans("p0", Vlans(10)),
    SetVlans("br0", Vlans(1, (2, 3)), was=Vlans(7), own=True),
    PinBridge("br0", "52:54:00:aa:00:01", 9000),
    TAP,
    OpenMacvtap("a:net0", "mv0"),
    IFB,
    CABLE,
    Limit("br0", SLOW),
    Limit("br0", SLOW, FAST),
    Unlimit("br0", SLOW),
    Impair("br0", BAD),
    Impair("br0", BAD, WORSE),
    Unimpair("br0", BAD),
    Divert("br0", "ifb0"),
    Undivert("br0", "ifb0"),
    AddAddress("br0", "10.0.0.2/24"),
    DelAddress("br0", "10.0.0.1/24"),
    AddRoute("10.8.0.0/24", "br0", "10.0.0.9"),
    DelRoute("10.9.0.0/24", "br0"),
    AddNeighbour("mv1", "10.0.0.9", "52:54:00:00:00:01"),
    AddNeighbour("mv1", "fd00::1"),
    DelNeighbour("mv1", "10.0.0.9"),
    SetSysctl("net.ipv4.conf.br0.forwarding", "1"),
    TABLE,
    DropTable("qemunet-lab-40000000", MARK),
    Claim("/r/claims/mac/52:54:00:00:00:01", "vm/a"),
    Unclaim("/r/net/lab/users/a", "vm/a"),
    WriteFile("/r/x", "text"),
    RemoveFile("/r/x y"),
    RemoveImage("/d/x y", "/r/note"),
    CreateImage("/d/new disk", "qcow2", 1 << 30, "/r/note"),
    OpenFile("a:disk.0", "/d/x", writable=True),
    LoadFile("a:boot.kernel", "/k"),
    OpenOverlay("a:disk.0", "/d/x"),
    HOOK,
    START,
    EndQemu("a", "/r/vm/a"),
    AwaitQemu("a"),
    SetGuestLink("a", "net0", up=False),
    SetGuestLink("a", "net0", up=False, was=True, hold=0.2),
    Resume("a"),
    NETDEV,
    DelNetdev("a", "host-net0"),
    CARD,
    DelCard("a", "net0"),
    SetCarrier("t0", on=False),
    SetCarrier("t0", on=False, was=True),
    FORWARDS,
    DAEMON,
    EndDaemon("dnsmasq", "/r/net/lab"),
    Reserve("dnsmasq", "/r/net/lab", "hosts/a.net0", "52:54:00:00:00:01,10.0.0.9"),
    Reconfigure("dnsmasq", "/r/net/lab", "network.lab", (("names", "10.0.0.9 a\n"),), (("names", ""),)),
    Unreserve("dnsmasq", "/r/net/lab", "hosts/a.net0"),
    SetOffload("br0", on=False),
    AddNetns("one", "one.test"),
    DelNetns("one"),
    NameNetns("one"),
    UnnameNetns("one"),
    In("one", AddAddress("lo", "10.0.0.2/24")),
    In("one", replace(CABLE, link=replace(CABLE.link, peer_netns="two"))),
    PlugPort("eth 1", 5, "br0"),
    UnplugPort("eth1", 5, "br0"),
    PlugPort("eth1", 5, "br0", Vlans(10, (20,))),
    ChangePort("eth1", 5, up=True, was_up=False, mtu=1400, was_mtu=1500),
    PutAddress("br0", 0, ADDRESS),
    PutAddress("eth1", 5, replace(ADDRESS, address="fd00::1/64", peer="fd00::2", broadcast=None, flags=0x200), "br0"),
    TakeAddress("eth1", 5, ADDRESS, "br0"),
    PutRoute(ROUTE),
    PutRoute(replace(ROUTE, destination="fd00::/64", ways=(Way("br0", 0, "fe80::1", onlink=True),), preference=1)),
    TakeRoute(replace(ROUTE, ways=(*ROUTE.ways, Way("eth2", 6, "fe80::1", 2)), expires=None), "br0"),
]


def of(step: Step) -> str:
    return type(step).__name__


def test_every_step_is_tried_below() -> None:
    """A new one has to be added to the list."""
    assert {type(step) for step in EVERY} == set(get_args(Step))


@pytest.mark.parametrize("step", EVERY, ids=of)
def test_a_step_says_itself_in_one_line(step: Step) -> None:
    """As an order, without a full stop."""
    said = step.describe()
    assert said
    assert "\n" not in said
    assert not said.endswith(".")


@pytest.mark.parametrize("step", EVERY, ids=of)
@pytest.mark.parametrize("before", [NOTHING, THERE], ids=["nothing", "there"])
def test_what_a_journal_keeps_of_an_undo_is_all_of_it(step: Step, before: Facts) -> None:
    """It is read back by another process."""
    undo = step.inverse(before)
    assert undo is None or from_json(to_json(undo)) == undo


@pytest.mark.parametrize("step", [step for step in EVERY if isinstance(step, OPPOSITES[1:])], ids=of)
def test_what_is_done_to_an_interface_of_somebody_else_is_undone_by_its_opposite(step: Step) -> None:
    """Whatever the photograph shows: it may be taken back when everything is different."""
    undo = step.inverse(NOTHING)
    assert undo is not None
    assert undo == step.inverse(THERE)
    again = undo.inverse(NOTHING)
    assert again is not None
    assert again.describe() == step.describe()


@pytest.mark.parametrize("step", [step for step in EVERY if not isinstance(step, OPPOSITES)], ids=of)
def test_an_undo_is_not_undone(step: Step) -> None:
    """Taking back what was made leaves nothing to be taken back: what is ours is not there before."""
    undo = step.inverse(NOTHING)
    assert undo is None or undo.inverse(NOTHING) is None


# ---------------------------------------------------------------- undo


def test_forwards_are_taken_back_by_the_opposite_exchange() -> None:
    """No photograph shows them; the step itself says what was open."""
    assert FORWARDS.inverse(THERE) == SetForwards(
        "a", "host-net0", add=("tcp::22-:22",), remove=("tcp:127.0.0.1:8080-:80",)
    )


@pytest.mark.parametrize(
    ("step", "undo"),
    [
        (SetGuestLink("a", "net0", up=False, was=True, hold=3.0), SetGuestLink("a", "net0", up=True)),
        (SetGuestLink("a", "net0", up=True, was=False), SetGuestLink("a", "net0", up=False)),
        (SetGuestLink("a", "net0", up=True, was=True), None),
        (SetGuestLink("a", "net0", up=False), None),
        (SetCarrier("t0", on=False, was=True), SetCarrier("t0", on=True)),
        (SetCarrier("t0", on=True, was=False), SetCarrier("t0", on=False)),
        (SetCarrier("t0", on=False, was=False), None),
        (SetCarrier("t0", on=False), None),
        (DelNetdev("a", "host-net0"), None),
        (DelCard("a", "net0"), None),
    ],
)
def test_a_cable_is_put_back_at_once_to_how_it_was_said_to_be(step: Step, undo: Step | None) -> None:
    """Not from a photograph, which does not show it; one of a card that is new goes with the card."""
    assert step.inverse(THERE) == undo


@pytest.mark.parametrize(
    "step",
    [
        BRIDGE,
        SetLink("br0", up=True, mtu=1500),
        SetMaster("p0", "br1"),
        AddAddress("br0", "10.0.0.1/24"),
        AddRoute("10.9.0.0/24", "br0"),
        SetSysctl("net.ipv4.conf.br0.forwarding", "0"),
        PinBridge("br0", "52:54:00:aa:00:01"),
        CreateImage("/d/x", "qcow2", 1, "/r/note"),
        DelAddress("br0", "10.0.0.2/24"),
        DelRoute("10.8.0.0/24", "br0"),
    ],
    ids=of,
)
def test_what_was_so_before_is_not_taken_back(step: Step) -> None:
    """It is not ours."""
    assert step.inverse(THERE) is None


@pytest.mark.parametrize(
    ("step", "undo"),
    [
        (SetLink("br0", up=False, mtu=1400), SetLink("br0", up=True, mtu=1500)),
        (SetLink("br0", up=True, mac="52:54:00:aa:00:02"), SetLink("br0", mac="52:54:00:aa:00:01")),
        (SetMaster("p0", "br0"), SetMaster("p0", "br1")),
        (SetMaster("p0", None), SetMaster("p0", "br1")),
        (AddAddress("br0", "10.0.0.2/24"), DelAddress("br0", "10.0.0.2/24")),
        (DelAddress("br0", "10.0.0.1/24"), AddAddress("br0", "10.0.0.1/24")),
        (AddRoute("10.8.0.0/24", "br0"), DelRoute("10.8.0.0/24", "br0")),
        (DelRoute("10.9.0.0/24", "br0"), AddRoute("10.9.0.0/24", "br0")),
        (DropTable("t", MARK, "old", "bridge"), LoadTable("t", MARK, "old", family="bridge")),
        (LoadTable("t", MARK, "new", None, "netdev"), DropTable("t", MARK, family="netdev")),
        (LoadTable("t", MARK, "new", "old", "arp"), LoadTable("t", MARK, "old", "new", "arp")),
        (SetPort("p0", isolated=True, was=False), SetPort("p0", isolated=False)),
        (SetPort("p0", isolated=False, was=True), SetPort("p0", isolated=True)),
        (FilterVlans("br0"), FilterVlans("br0", on=False)),
        (SetVlans("p0", Vlans(10)), SetVlans("p0", None, Vlans(10))),
        (SetVlans("br0", None, Vlans(10), own=True), SetVlans("br0", Vlans(10), None, own=True)),
        (Limit("br0", SLOW), Unlimit("br0", SLOW)),
        (Limit("br0", FAST, SLOW), Limit("br0", SLOW, FAST)),
        (Unlimit("br0", SLOW), Limit("br0", SLOW)),
        (Limit("br0", SLOW, below=True), Unlimit("br0", SLOW, below=True)),
        (Limit("br0", FAST, SLOW, below=True), Limit("br0", SLOW, FAST, below=True)),
        (Unlimit("br0", SLOW, below=True), Limit("br0", SLOW, below=True)),
        (Impair("br0", BAD), Unimpair("br0", BAD)),
        (Impair("br0", BAD, WORSE), Impair("br0", WORSE, BAD)),
        (Unimpair("br0", BAD), Impair("br0", BAD)),
        (Divert("br0", "ifb0"), Undivert("br0", "ifb0")),
        (Undivert("br0", "ifb0"), Divert("br0", "ifb0")),
        (
            SetSysctl("net.ipv4.conf.br0.forwarding", "1"),
            SetSysctl("net.ipv4.conf.br0.forwarding", "0", only_if="1"),
        ),
    ],
    ids=of,
)
def test_what_was_different_is_put_back(step: Step, undo: Step) -> None:
    """To what the photograph shows; a sysctl only if nobody else changed it meanwhile."""
    assert step.inverse(THERE) == undo


@pytest.mark.parametrize(
    ("step", "undo"),
    [
        (BRIDGE, DelLink("br0", MARK)),
        (MACVTAP, DelLink("mv0", MARK)),
        (MACVLAN, DelLink("mv1", MARK)),
        (IFB, DelLink("ifb0", MARK)),
        (CABLE, DelLink("h0", CABLE.mark)),
        (AddRoute("10.0.0.9/32", "mv1", source="10.0.0.1"), DelRoute("10.0.0.9/32", "mv1")),
        (AddNeighbour("mv1", "10.0.0.9", "52:54:00:00:00:01"), DelNeighbour("mv1", "10.0.0.9")),
        (AddNeighbour("mv1", "fd00::1"), DelNeighbour("mv1", "fd00::1", proxy=True)),
        (TAP, DelLink("t0", MARK)),
        (CreateImage("/d/new", "raw", 1, "/r/note"), RemoveImage("/d/new", "/r/note")),
        (Claim("/r/c", "vm/a"), Unclaim("/r/c", "vm/a")),
        (WriteFile("/r/x", ""), RemoveFile("/r/x")),
        (HOOK, RunHook("/down", None, "t0", HOOK.environment)),
        (START, EndQemu("a", "/r/vm/a")),
        (NETDEV, DelNetdev("a", "host-net0")),
        (CARD, DelCard("a", "net0")),
        (TABLE, DropTable("qemunet-lab-40000000", MARK)),
    ],
    ids=of,
)
def test_what_was_made_is_removed(step: Step, undo: Step) -> None:
    """With the mark, so that nothing else is."""
    assert step.inverse(NOTHING) == undo


@pytest.mark.parametrize(
    "step",
    [
        AddAddress("t0", "10.0.0.1/24"),
        SetSysctl("net.ipv4.conf.t0.forwarding", "1"),
        SetLink("t0", up=True),
        FilterVlans("t0"),
        SetVlans("t0", Vlans(10)),
        Limit("t0", SLOW),
        Impair("t0", BAD),
        Divert("t0", "ifb0"),
    ],
    ids=of,
)
def test_what_is_set_on_a_new_interface_goes_with_it(step: Step) -> None:
    """Nothing has to be undone for it."""
    assert step.inverse(THERE) is None


def test_rules_that_took_the_place_of_others_give_it_back() -> None:
    """Those that were there on purpose; what a killed qemunet has left is nobody's."""
    assert replace(TABLE, was="old").inverse(NOTHING) == replace(TABLE, rules="old", was=TABLE.rules)


# ---------------------------------------------------------------- shell


def test_a_script_makes_a_table_and_never_replaces_one() -> None:
    """It cannot look whose it is. The end of the text stands alone in its line, whatever is in front of the others."""
    (text,) = TABLE.shell()
    first, *_, last = text.splitlines()
    assert (first, last) == ("nft -f - <<'QEMUNET'", "QEMUNET")
    assert "create table inet qemunet-lab-40000000\n" in text
    assert "delete" not in text
    assert DropTable(TABLE.name, MARK).shell() == ("nft delete table inet qemunet-lab-40000000",)


def test_a_table_is_replaced_in_one_transaction() -> None:
    """Whether there is one or not."""
    assert TABLE.transaction.startswith("table inet qemunet-lab-40000000\ndelete table inet qemunet-lab-40000000\n")


@pytest.mark.parametrize("step", [NETDEV, CARD, DelNetdev("a", "n"), DelCard("a", "n"), FORWARDS], ids=of)
def test_a_script_starts_guests_and_changes_no_card_of_one_that_runs(step: Step) -> None:
    """It has nobody who talks to QEMU."""
    assert step.shell() == ()


def test_a_carrier_is_set_as_ip_would_have_it() -> None:
    """By the words of ip-link(8)."""
    assert SetCarrier("t0", on=False).shell() == ("ip link set dev t0 carrier off",)
    assert SetCarrier("t0", on=True).shell() == ("ip link set dev t0 carrier on",)


def test_what_is_done_to_a_card_says_which_card_of_whom() -> None:
    """Errors are made of it: could not …"""
    assert NETDEV.describe() == "give a the backend host-net0"
    assert CARD.describe() == "plug net0 into a"
    assert DelCard("a", "net0").describe() == "unplug net0 from a"
    assert SetGuestLink("a", "net0", up=False).describe() == "set the cable of a.net0 out"
    assert FORWARDS.describe() == "open tcp:127.0.0.1:8080-:80, close tcp::22-:22 of host-net0 of a"


def test_a_bridge_has_its_address_and_group_in_the_line_that_makes_it() -> None:
    """Or it would take the lowest of its ports', and be nobody's for a moment."""
    line = BRIDGE.shell()[0]
    for part in ("address 52:54:00:aa:00:01", "group 1073741824", "type bridge", "stp_state 0", "ageing_time 30000"):
        assert part in line


def test_a_cable_has_both_ends_in_the_line_that_makes_it() -> None:
    """Each with all that it is to be, so that none is nobody's for a moment."""
    assert CABLE.describe() == "add cable h0 to p0 (52:54:00:00:00:03, mtu 1400)"
    own, other = (f"address {mac}:54:00:00:00:03 mtu 1400 group 1073741824" for mac in ("52", "fe"))
    assert CABLE.shell() == (
        f"ip link add name h0 {own} type veth peer name p0 {other}",
        "ip link property add dev h0 altname qemunet.vm-a.host",
        "ip link property add dev p0 altname qemunet.vm-a.port",
    )


def test_a_shell_chooses_a_bridges_mtu_by_changing_it() -> None:
    """One that is only there from the beginning would be lowered by the first port with less."""
    assert "mtu 1501" in BRIDGE.shell()[0]
    assert BRIDGE.shell()[-1] == "ip link set dev br0 mtu 1500"
    assert PinBridge("br0", "52:54:00:aa:00:01").shell() == ("pin br0",)
    assert PinBridge("br0", "52:54:00:aa:00:01", 9000).shell()[1:] == (
        "ip link set dev br0 mtu 9001",
        "ip link set dev br0 mtu 9000",
    )


def test_a_shells_tap_is_plugged_in_after_its_address_and_mtu() -> None:
    """In the order that leaves the bridge as it is; without IPv6 of its own."""
    assert TAP.shell() == (
        'ip tuntap add dev t0 mode tap multi_queue vnet_hdr user "$user"',
        "ip link property add dev t0 altname qemunet.vm-a.net0",
        "sysctl -e -qw net.ipv6.conf.t0.disable_ipv6=1",
        "ip link set dev t0 address fe:54:00:00:00:01 mtu 1400 group 1073741824 master br0 up",
    )
    assert all("sysctl" not in line for line in replace(TAP, master=None).shell())


def test_a_hosts_macvlan_leads_to_its_guests_as_ip_would_have_it() -> None:
    """Each line for a shell of its own."""
    assert "link eth1 name mv1 address 52:54:00:00:00:02 mtu 1400" in MACVLAN.shell()[0]
    assert MACVLAN.shell()[0].endswith("type macvlan mode bridge")
    route = AddRoute("10.0.0.9/32", "mv1", source="10.0.0.1")
    assert route.describe() == "route 10.0.0.9/32 through mv1 as 10.0.0.1"
    assert route.shell() == ("ip route add 10.0.0.9/32 dev mv1 src 10.0.0.1 proto static",)
    known = AddNeighbour("mv1", "10.0.0.9", "52:54:00:00:00:01")
    assert known.shell() == ("ip neighbour replace 10.0.0.9 lladdr 52:54:00:00:00:01 nud permanent dev mv1",)
    assert AddNeighbour("mv1", "fd00::1").shell() == ("ip neighbour add proxy fd00::1 dev mv1",)


def test_a_shell_puts_a_port_into_its_vlans_and_out_of_all_others() -> None:
    """Whatever its bridge puts new ports into."""
    assert SetVlans("p0", Vlans(10)).shell() == (
        "bridge vlan add dev p0 vid 10 pvid untagged",
        "bridge vlan del dev p0 vid 1-9",
        "bridge vlan del dev p0 vid 11-4094",
    )
    assert SetVlans("br0", Vlans(1, (2, 3, 4094)), own=True).shell() == (
        "bridge vlan add dev br0 self vid 1 pvid untagged",
        "bridge vlan add dev br0 self vid 2-3",
        "bridge vlan add dev br0 self vid 4094",
        "bridge vlan del dev br0 self vid 4-4093",
    )


def test_a_shells_tap_is_in_its_vlans_before_it_is_up() -> None:
    lines = replace(TAP, vlans=Vlans(10), isolated=True).shell()
    said = [text.partition(" ")[0] for text in lines]
    assert said == ["ip", "ip", "sysctl", "ip", "bridge", "bridge", "bridge", "bridge", "ip"]
    assert lines[-1] == "ip link set dev t0 up"
    assert not lines[3].endswith(" up")


def test_words_with_blanks_are_quoted() -> None:
    """A line is for a shell to read."""
    assert HOOK.shell() == ("env 'QEMUNET_VM=a b' /up t0",)
    assert RemoveFile("/r/x y").shell() == ("rm -f '/r/x y'",)


def test_a_user_image_is_made_only_where_there_is_none() -> None:
    """A script runs later than it was written."""
    assert CreateImage("/d/new disk", "qcow2", 5, "/r/note").shell() == (
        "[ -e '/d/new disk' ] || qemu-img create -q -f qcow2 '/d/new disk' 5",
    )


def test_an_ipv6_address_is_usable_at_once() -> None:
    """On a bridge without ports detection of duplicates would never end."""
    assert AddAddress("br0", "fd00::1/64").shell() == ("ip address add fd00::1/64 dev br0 nodad",)


def test_dots_in_the_name_of_an_interface_become_slashes_in_a_sysctl() -> None:
    """A dot would end the name."""
    assert sysctl_name("eth0.10") == "eth0/10"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/r/claims/mac/52:54:00:00:00:01", "claim mac/52:54:00:00:00:01 for vm/a"),
        ("/r/net/lab/users/a", "claim a place on net/lab for vm/a"),
    ],
)
def test_a_claim_says_what_it_is_about(path: str, said: str) -> None:
    """Not where the file lies."""
    assert Claim(path, "vm/a").describe() == said


def test_a_shell_changes_a_bucket_in_place() -> None:
    """By its handle, and with sizes in bytes."""
    bucket = "tc qdisc replace dev t0 root handle 1: tbf rate 1500mbit burst 1875000b limit 11250000b"
    assert Limit("t0", FAST).shell() == Limit("t0", FAST, SLOW).shell() == (bucket,)
    assert Unlimit("t0", FAST).shell() == ("tc qdisc del dev t0 root handle 1:",)


def test_a_shell_impairs_in_the_words_of_tc_and_limits_below_that() -> None:
    assert Impair("t0", BAD).shell() == (
        "tc qdisc replace dev t0 root handle 1: netem limit 10000 delay 20000us loss 1%",
    )
    shares = "loss 0.0001% duplicate 0.0002% corrupt 0.0003% reorder 0.05%"
    (line,) = Impair("t0", WORSE).shell()
    assert line.endswith(f"netem limit 10000 delay 1500000us 500000us {shares}")
    assert Limit("t0", SLOW, below=True).shell()[0].startswith("tc qdisc replace dev t0 parent 1:1 handle 2: tbf ")
    assert Unlimit("t0", SLOW, below=True).shell() == ("tc qdisc del dev t0 parent 1:1 handle 2:",)
    assert Unimpair("t0", BAD).shell() == ("tc qdisc del dev t0 root handle 1:",)
