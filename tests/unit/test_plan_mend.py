"""What is done again for a network whose bridge somebody has deleted, and what is not."""

from __future__ import annotations

from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.plan import mend
from qemunet.steps import (
    AddAddress,
    AddLink,
    BridgeLink,
    Claim,
    DropTable,
    FilterVlans,
    Mark,
    PinBridge,
    SetLink,
    SetMaster,
    SetOffload,
    SetPort,
    SetSysctl,
    SetVlans,
    VethLink,
    Vlans,
    WriteFile,
)

FACTS = Facts(runtime="/run/qemunet", machine_id="m", uid=0, can_switch_user=True)
MARK = Mark("net/lab", "bridge", 0x4000_0001)
BRIDGE = AddLink("qn-lab", BridgeLink("52:54:00:00:00:01", 1500), MARK)
V6, UP = SetSysctl("net.ipv6.conf.qn-lab.disable_ipv6", "1"), SetLink("qn-lab", up=True)
ADDRESS, OFFLOAD = AddAddress("qn-lab", "10.0.0.1/24"), SetOffload("qn-lab", on=False)
PORT = SetMaster("qn-lab-port", "qn-lab")
ELSEWHERE = (SetLink("qn-lab-host", up=True), AddAddress("qn-lab-host", "10.0.0.1/24"))
KEPT = (
    Claim("/run/qemunet/host/forward-eth0/users/lab.network", "net/lab"),
    DropTable("qemunet-lab", MARK),
    WriteFile("/run/qemunet/net/lab/dnsmasq/dnsmasq.conf", ""),
)
MAC, FE = "52:54:00:00:00:02", "fe:54:00:00:00:01"


def link(name: str, kind: str = "bridge", **more: object) -> LinkFact:
    return replace(LinkFact(7, name, kind, "02:00:00:00:00:09", 1500, up=True), **more)


def there(*links: LinkFact, **more: object) -> Facts:
    return replace(FACTS, links={one.name: one for one in links}, **more)


def test_what_went_with_the_bridge_is_done_again_in_order() -> None:
    """Tables, files and claims are still there; so is what is not the bridge's."""
    steps = (*KEPT, BRIDGE, V6, ADDRESS, OFFLOAD, *ELSEWHERE, UP, PORT)
    facts = there(link("qn-lab-port", "veth"), link("qn-lab-host", "veth"))
    assert list(mend.missing(steps, "qn-lab", facts)) == [BRIDGE, V6, ADDRESS, OFFLOAD, UP, PORT]


def test_a_cable_that_has_gone_as_well_is_made_again_with_both_its_ends() -> None:
    """And with all that was set at either."""
    cable = AddLink(
        "qn-lab-host", VethLink("qn-lab-port", "52:54:00:00:00:02", FE, 1500, "port"), replace(MARK, part="host")
    )
    quiet, port_up = SetSysctl("net.ipv6.conf.qn-lab-port.disable_ipv6", "1"), SetLink("qn-lab-port", up=True)
    steps = (BRIDGE, cable, quiet, PORT, *ELSEWHERE, port_up, UP)
    assert list(mend.missing(steps, "qn-lab", FACTS)) == list(steps)
    ends = (link("qn-lab-port", "veth"), link("qn-lab-host", "veth"))
    assert list(mend.missing(steps, "qn-lab", there(*ends))) == [BRIDGE, PORT, UP]


def test_a_cable_that_is_gone_too_comes_with_both_its_ends() -> None:
    cable = AddLink("qn-lab-host", VethLink("qn-lab-port", MAC, FE, 1500, "port"), replace(MARK, part="host"))
    steps = (BRIDGE, cable, PORT, *ELSEWHERE, SetLink("qn-lab-port", up=True))
    assert list(mend.missing(steps, "qn-lab", FACTS)) == list(steps)


def test_a_bridge_that_was_half_made_is_finished() -> None:
    """Whoever made it again was killed: it has some of its addresses, and is down."""
    facts = there(link("qn-lab", up=False), addresses={"qn-lab": ("10.0.0.1/24",)})
    assert list(mend.missing((BRIDGE, V6, ADDRESS, UP), "qn-lab", facts)) == [V6, UP]


def test_an_interface_whose_name_only_begins_like_it_is_left_alone() -> None:
    other = SetSysctl("net.ipv4.conf.qn-lab2.forwarding", "1")
    assert list(mend.missing((BRIDGE, other), "qn-lab", FACTS)) == [BRIDGE]


def test_a_tap_is_plugged_into_a_bridge_of_ours_as_it_is() -> None:
    ours = link("qn-lab", altnames=("qemunet.net-lab.bridge",))
    steps = list(mend.plug(ours, [mend.Loose(link("qn-a-net0", "tun"), FE)], there(ours)))
    assert steps == [SetMaster("qn-a-net0", "qn-lab")]


def test_nothing_of_somebody_elses_bridge_changes_by_a_tap() -> None:
    """It keeps its address and its MTU; the tap takes that."""
    theirs = link("br0", mtu=1400)
    steps = list(mend.plug(theirs, [mend.Loose(link("qn-a-net0", "tun"), FE)], there(theirs)))
    pinned = PinBridge("br0", theirs.mac, 1400)
    assert steps == [pinned, SetLink("qn-a-net0", mtu=1400), SetMaster("qn-a-net0", "br0")]


def test_without_a_loose_tap_nothing_is_done() -> None:
    assert not list(mend.plug(link("br0"), [], there(link("br0"))))


def test_a_tap_that_was_isolated_and_in_vlans_is_so_before_it_is_up_again() -> None:
    ours = link("qn-lab", altnames=("qemunet.net-lab.bridge",))
    assert list(mend.plug(ours, [mend.Loose(link("qn-a-net0", "tun"), FE, True, Vlans(10))], there(ours))) == [
        SetLink("qn-a-net0", up=False),
        SetMaster("qn-a-net0", "qn-lab"),
        SetPort("qn-a-net0", isolated=True),
        SetVlans("qn-a-net0", Vlans(10)),
        SetLink("qn-a-net0", up=True),
    ]


def test_a_bridge_tells_vlans_apart_again_and_the_hosts_end_is_in_its_own() -> None:
    """That end was only plugged out, and has forgotten it."""
    filtering, host = FilterVlans("qn-lab"), SetVlans("qn-lab-port", Vlans(10))
    facts = there(link("qn-lab-port", "veth"))
    assert list(mend.missing((BRIDGE, filtering, PORT, host, UP), "qn-lab", facts)) == [
        BRIDGE,
        filtering,
        PORT,
        host,
        UP,
    ]
