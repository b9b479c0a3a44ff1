"""What every host promises about links, taps and macvtaps."""

from __future__ import annotations

import errno

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.model.nic import MacvtapMode
from qemunet.steps import (
    AddLink,
    BridgeLink,
    DelGroup,
    DelLink,
    MacvlanLink,
    MacvtapLink,
    Mark,
    OpenMacvtap,
    OpenTap,
    PinBridge,
    SetCarrier,
    SetLink,
    SetMaster,
    SetPort,
    VethLink,
)
from qemunet.testing.fake import FakeHost
from tests.dump import program

from .conftest import UPLINK_MAC, World, refused

GROUP = 0x4000_0007
MARK = Mark("net/lab", "bridge", GROUP)
BRIDGE = AddLink("br9", BridgeLink("02:11:22:33:44:55", 1400, ageing=60), MARK)
TAP = OpenTap("a:net0", "qn-a", Mark("vm/a", "net0", GROUP + 1), "fe:54:00:00:00:01", 1500, "br0")
MACVTAP = AddLink(
    "mv0", MacvtapLink("eth1", MacvtapMode.BRIDGE, "52:54:00:00:00:01", 1500), Mark("vm/a", "net0", GROUP + 1)
)

MACVLAN = AddLink(
    "mv1", MacvlanLink("eth1", "52:54:00:00:00:02", 1500), Mark("host/macvlan-eth1", "macvlan", GROUP + 3)
)

CABLE = AddLink(
    "qn-a",
    VethLink("qn-b", "52:54:00:00:00:03", "fe:54:00:00:00:03", 1400, "port"),
    Mark("net/lab", "host", GROUP + 5),
)
PORT = Mark("net/lab", "port", GROUP + 5)


def undo_of(world: World, step: AddLink | OpenTap) -> DelLink:
    before = world.host.photograph(Wanted())
    undo = step.inverse(before)
    assert isinstance(undo, DelLink)
    return undo


def macvtap(name: str, mode: MacvtapMode, mac: str, mtu: int = 1500) -> AddLink:
    return AddLink(name, MacvtapLink("eth1", mode, mac, mtu), Mark("vm/a", name, GROUP + 1))


def test_a_new_bridge_is_as_ordered_marked_and_down(world: World) -> None:
    world.do(BRIDGE)
    link = world.there("br9")
    assert (link.kind, link.mac, link.mtu) == ("bridge", "02:11:22:33:44:55", 1400)
    assert (link.group, link.altnames) == (GROUP, ("qemunet.net-lab.bridge",))
    assert not link.up


@pytest.mark.parametrize("step", [BRIDGE, TAP, MACVTAP, MACVLAN, CABLE], ids=lambda step: step.name)
def test_the_inverse_leaves_nothing(world: World, step: AddLink | OpenTap) -> None:
    undo = undo_of(world, step)
    world.do(step, undo)
    assert world.link(step.name) is None
    with pytest.raises(Gone):
        world.do(undo)


def test_a_name_that_is_taken_is_refused_and_its_owner_is_untouched(world: World) -> None:
    before = world.there("br0")
    with pytest.raises(Taken, match="br0 is a bridge already"):
        world.do(replace(BRIDGE, name="br0"))
    with pytest.raises(Taken, match="br0 is a bridge already"):
        world.do(replace(TAP, name="br0", master=None))
    assert world.there("br0") == before


def test_a_tap_of_somebody_else_is_never_shared(world: World) -> None:
    world.do(TAP)
    with pytest.raises(Taken, match=r"qn-a is a tap already, of qemunet\.vm-a\.net0"):
        world.do(replace(TAP, handle="b:net0", mark=Mark("vm/b", "net0", GROUP + 2)))
    assert world.there("qn-a").altnames == ("qemunet.vm-a.net0",)


def test_a_mark_that_is_taken_is_refused_and_the_link_is_taken_back(world: World) -> None:
    world.do(BRIDGE)
    with pytest.raises(Taken, match=r"qemunet.net-lab.bridge is a bridge already \(br9\)"):
        world.do(replace(BRIDGE, name="qn-b"))
    with pytest.raises(Taken, match=r"qemunet.net-lab.bridge is a bridge already \(br9\)"):
        world.do(replace(TAP, mark=MARK))
    assert world.link("qn-b") is None
    assert world.link("qn-a") is None


def test_a_foreign_link_of_that_name_is_not_deleted(world: World) -> None:
    with pytest.raises(Gone):
        world.do(DelLink("br0", MARK))
    assert world.link("br0")


def test_a_link_of_another_scope_is_not_deleted(world: World) -> None:
    world.do(BRIDGE)
    for other in (Mark("net/other", "bridge", GROUP), Mark("net/lab", "bridge", GROUP + 9)):
        with pytest.raises(Gone):
            world.do(DelLink("br9", other))
    assert world.link("br9")


def test_a_link_is_found_by_its_alternative_name(world: World) -> None:
    world.do(BRIDGE)
    assert world.there(MARK.altname).name == "br9"


def test_deleting_a_bridge_frees_its_ports(world: World) -> None:
    world.do(BRIDGE, SetMaster("eth1", "br9"))
    assert world.there("eth1").master == "br9"
    world.do(DelLink("br9", MARK))
    assert world.there("eth1").master is None


def test_several_links_are_deleted_together_and_those_that_are_gone_do_not_matter(world: World) -> None:
    world.do(TAP, replace(TAP, handle="a:net1", name="qn-b", mark=Mark("vm/a", "net1", GROUP + 1)))
    links = tuple(DelLink(name, Mark("vm/a", part, GROUP + 1)) for name, part in (("qn-a", "net0"), ("qn-b", "net1")))
    world.do(links[0], DelGroup(links))
    assert world.link("qn-a") is None
    assert world.link("qn-b") is None
    with pytest.raises(Gone):
        world.do(DelGroup(links))


def test_a_link_of_the_group_that_is_not_on_the_list_survives(world: World) -> None:
    world.do(TAP, replace(TAP, handle="a:net1", name="qn-b", mark=Mark("vm/a", "net1", GROUP + 1)))
    world.do(DelGroup((DelLink("qn-a", TAP.mark), DelLink("qn-x", Mark("vm/a", "net2", GROUP + 1)))))
    assert world.link("qn-a") is None
    assert world.link("qn-b")


def test_properties_are_set_and_their_inverse_restores_them(world: World) -> None:
    before = world.host.photograph(Wanted(links=frozenset({"br0"})))
    change = SetLink("br0", up=False, mtu=1300, mac="02:99:99:99:99:99")
    undo = change.inverse(before)
    world.do(change)
    link = world.there("br0")
    assert (link.up, link.mtu, link.mac) == (False, 1300, "02:99:99:99:99:99")
    assert undo is not None
    world.do(undo)
    assert world.there("br0") == before.links["br0"]


@pytest.mark.parametrize(
    "step", [SetLink("qn-none", up=True), SetMaster("qn-none", "br0"), SetMaster("eth1", "qn-none")]
)
def test_changing_what_is_not_there_is_an_error_forwards_and_done_backwards(
    world: World, step: SetLink | SetMaster
) -> None:
    with pytest.raises(Gone) as caught:
        world.do(step)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENODEV


def test_only_a_bridge_takes_ports(world: World) -> None:
    with refused(errno.EOPNOTSUPP):
        world.do(SetMaster("br0", "eth1"))


def test_a_bridge_is_no_port(world: World) -> None:
    world.do(BRIDGE)
    with refused(errno.ELOOP):
        world.do(SetMaster("br9", "br0"))


def test_a_new_tap_is_marked_on_its_bridge_and_up_without_ipv6(world: World) -> None:
    bridge = world.there("br0")
    world.do(TAP)
    link = world.there("qn-a")
    assert (link.kind, link.mac, link.mtu, link.master, link.up) == ("tun", TAP.mac, 1500, "br0", True)
    assert (link.group, link.altnames) == (GROUP + 1, ("qemunet.vm-a.net0",))
    assert world.sysctl("net.ipv6.conf.qn-a.disable_ipv6") == "1"
    assert world.there("br0") == bridge


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_a_pinned_bridge_is_the_same_before_with_and_after_a_port(world: World, mtu: int) -> None:
    world.make_bridge("br9", mtu)
    before = world.there("br9")
    world.do(PinBridge("br9", before.mac, None if mtu == 1500 else mtu))
    world.do(replace(TAP, master="br9", mtu=mtu))
    assert world.there("br9") == before
    world.do(DelLink("qn-a", TAP.mark))
    assert world.there("br9") == before


def test_a_bridge_that_is_not_pinned_follows_its_ports(world: World) -> None:
    world.make_bridge("br9", 9000)
    world.do(replace(TAP, master="br9", mtu=1400))
    with_port = world.there("br9")
    assert (with_port.mac, with_port.mtu) == (TAP.mac, 1400)
    assert world.host.photograph(Wanted(bridges=frozenset({"br9"}))).ports == {"br9": frozenset({TAP.mac})}
    world.do(DelLink("qn-a", TAP.mark))
    without = world.there("br9")
    assert (without.mac, without.mtu) == ("00:00:00:00:00:00", 1500)
    assert world.host.photograph(Wanted(bridges=frozenset({"br9"}))).ports == {"br9": frozenset()}


def test_a_bridge_that_is_not_there_is_not_pinned(world: World) -> None:
    with pytest.raises(Gone):
        world.do(PinBridge("qn-none", TAP.mac))


def test_a_tap_without_a_bridge_keeps_ipv6(world: World) -> None:
    world.do(replace(TAP, master=None))
    assert world.there("qn-a").master is None
    assert world.sysctl("net.ipv6.conf.qn-a.disable_ipv6") == "0"


def test_a_tap_is_gone_when_its_descriptors_are(world: World) -> None:
    world.do(replace(TAP, queues=2))
    world.host.close()
    assert world.link("qn-a") is None


@pytest.mark.parametrize("name", ["", "a-name-of-16-byt", "a/b", "a b", "."])
def test_a_tap_with_an_impossible_name_is_refused(world: World, name: str) -> None:
    with refused(errno.EINVAL):
        world.do(replace(TAP, name=name))


def test_a_tap_whose_bridge_is_missing_leaves_nothing(world: World) -> None:
    with refused(errno.ENODEV):
        world.do(replace(TAP, master="qn-none"))
    assert world.link("qn-a") is None


def test_a_tap_with_an_impossible_mtu_leaves_nothing(world: World) -> None:
    with refused(errno.EINVAL):
        world.do(replace(TAP, mtu=20))
    assert world.link("qn-a") is None


def test_a_tap_that_is_a_port_cannot_have_a_bridge_as_master_that_is_none(world: World) -> None:
    with refused(errno.EOPNOTSUPP):
        world.do(replace(TAP, master="eth1"))
    assert world.link("qn-a") is None


def test_a_macvtap_has_its_own_address_and_can_be_opened(world: World) -> None:
    world.do(MACVTAP, SetLink("mv0", up=True), OpenMacvtap("a:net0", "mv0"))
    link = world.there("mv0")
    assert (link.kind, link.mac, link.group) == ("macvtap", "52:54:00:00:00:01", GROUP + 1)
    assert "a:net0" in world.host.handles


def test_a_macvlan_of_the_host_sits_beside_the_guests_macvtaps(world: World) -> None:
    world.do(MACVTAP, MACVLAN, SetLink("mv1", up=True))
    link = world.there("mv1")
    assert (link.kind, link.mac, link.mtu, link.up) == ("macvlan", "52:54:00:00:00:02", 1500, True)
    assert (link.group, link.altnames) == (GROUP + 3, ("qemunet.host-macvlan-eth1.macvlan",))


def test_a_macvlan_of_the_host_does_not_go_with_passthru(world: World) -> None:
    world.do(macvtap("mv0", MacvtapMode.PASSTHRU, "52:54:00:00:00:01"))
    with pytest.raises(Taken, match="eth1 cannot carry a macvtap"):
        world.do(MACVLAN)
    assert world.link("mv1") is None


def test_a_passthru_macvtap_gets_the_parents_address(world: World) -> None:
    world.do(macvtap("mv0", MacvtapMode.PASSTHRU, "52:54:00:00:00:01"))
    assert world.there("mv0").mac == UPLINK_MAC


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MacvtapMode.BRIDGE, MacvtapMode.PASSTHRU),
        (MacvtapMode.PASSTHRU, MacvtapMode.BRIDGE),
        (MacvtapMode.PASSTHRU, MacvtapMode.PASSTHRU),
    ],
)
def test_passthru_wants_its_parent_alone(world: World, first: MacvtapMode, second: MacvtapMode) -> None:
    world.do(macvtap("mv0", first, "52:54:00:00:00:01"))
    with pytest.raises(Taken, match="eth1 cannot carry a macvtap"):
        world.do(macvtap("mv1", second, "52:54:00:00:00:02"))
    assert world.link("mv1") is None


def test_bridge_and_private_go_together(world: World) -> None:
    world.do(macvtap("mv0", MacvtapMode.BRIDGE, "52:54:00:00:00:01"))
    world.do(macvtap("mv1", MacvtapMode.PRIVATE, "52:54:00:00:00:02"))
    assert world.link("mv1")


def test_two_macvtaps_with_one_address_cannot_both_go_up(world: World) -> None:
    world.do(macvtap("mv0", MacvtapMode.BRIDGE, "52:54:00:00:00:01"), SetLink("mv0", up=True))
    world.do(macvtap("mv1", MacvtapMode.BRIDGE, "52:54:00:00:00:01"))
    with pytest.raises(Taken, match="its address is in use"):
        world.do(SetLink("mv1", up=True))


def test_a_port_of_a_bridge_carries_no_macvtap(world: World) -> None:
    world.do(SetMaster("eth1", "br0"))
    with pytest.raises(Taken, match="eth1 cannot carry a macvtap"):
        world.do(MACVTAP)
    world.do(SetMaster("eth1", None))


def test_a_macvtap_is_no_bigger_than_its_parent(world: World) -> None:
    with refused(errno.EINVAL):
        world.do(macvtap("mv0", MacvtapMode.BRIDGE, "52:54:00:00:00:01", mtu=9000))
    assert world.link("mv0") is None


def test_a_macvtap_needs_a_parent(world: World) -> None:
    with refused(errno.ENODEV):
        world.do(replace(MACVTAP, link=MacvtapLink("qn-none", MacvtapMode.BRIDGE, "52:54:00:00:00:01", 1500)))


def test_what_is_no_macvtap_is_not_opened_as_one(world: World) -> None:
    with refused(errno.ENOENT):
        world.do(OpenMacvtap("a:net0", "br0"))


# ---------------------------------------------------------------- cables


def test_both_ends_of_a_cable_are_as_ordered_marked_and_down(world: World) -> None:
    world.do(CABLE)
    for name, mac, part in (("qn-a", "52:54:00:00:00:03", "host"), ("qn-b", "fe:54:00:00:00:03", "port")):
        link = world.there(name)
        assert (link.kind, link.mac, link.mtu, link.up) == ("veth", mac, 1400, False)
        assert (link.group, link.altnames) == (GROUP + 5, (f"qemunet.net-lab.{part}",))


@pytest.mark.parametrize("end", [DelLink("qn-a", CABLE.mark), DelLink("qn-b", PORT)], ids=lambda step: step.name)
def test_a_cable_goes_with_either_end(world: World, end: DelLink) -> None:
    """Also from the bridge that it is plugged into."""
    world.do(CABLE, SetMaster("qn-b", "br0"), end)
    assert (world.link("qn-a"), world.link("qn-b")) == (None, None)
    for gone in (DelLink("qn-a", CABLE.mark), DelLink("qn-b", PORT)):
        with pytest.raises(Gone):
            world.do(gone)


@pytest.mark.parametrize("parts", [("host",), ("port",), ("host", "port")], ids="+".join)
def test_a_cable_goes_with_its_group(world: World, parts: tuple[str, ...]) -> None:
    """By the name of either end, or of both; the bridge of the same group goes with it, if it is meant."""
    names = {"host": "qn-a", "port": "qn-b"}
    world.do(replace(BRIDGE, mark=replace(MARK, group=GROUP + 5)), CABLE, SetMaster("qn-b", "br9"))
    ends = tuple(DelLink(names[part], replace(PORT, part=part)) for part in parts)
    world.do(DelGroup(ends))
    assert (world.link("qn-a"), world.link("qn-b")) == (None, None)
    assert world.link("br9")
    world.do(CABLE, DelGroup((*ends, DelLink("br9", replace(MARK, group=GROUP + 5)))))
    assert [world.link(name) for name in ("qn-a", "qn-b", "br9")] == [None, None, None]
    with pytest.raises(Gone):
        world.do(DelGroup(ends))


@pytest.mark.parametrize("taken", ["qn-a", "qn-b"])
def test_a_cable_is_not_made_if_a_name_of_either_end_is_taken(world: World, taken: str) -> None:
    """Whoever has it is untouched, and the other end is not there either."""
    world.make_bridge(taken, 1300)
    before = world.there(taken)
    with pytest.raises(Taken, match=f"{taken} is a bridge already"):
        world.do(CABLE)
    assert world.there(taken) == before
    assert world.link("qn-b" if taken == "qn-a" else "qn-a") is None


@pytest.mark.parametrize("part", ["host", "port"])
def test_a_cable_is_taken_back_if_a_mark_of_either_end_is_taken(world: World, part: str) -> None:
    world.do(replace(BRIDGE, mark=replace(MARK, part=part)))
    with pytest.raises(Taken, match=rf"qemunet\.net-lab\.{part} is a bridge already \(br9\)"):
        world.do(CABLE)
    assert (world.link("qn-a"), world.link("qn-b")) == (None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"peer": ""}, {"peer": "qn-%d"}, {"mtu": 20}, {"peer_mac": "01:00:5e:00:00:01"}],
    ids=["no name", "template", "mtu", "multicast"],
)
def test_an_impossible_cable_leaves_nothing(world: World, wrong: dict[str, object]) -> None:
    assert isinstance(CABLE.link, VethLink)
    with pytest.raises(OSError, match=r"."):
        world.do(replace(CABLE, link=replace(CABLE.link, **wrong)))
    assert (world.link("qn-a"), world.link("qn-b"), world.link("qn-0")) == (None, None, None)


# ---------------------------------------------------------------- carriers


def has_carrier(world: World, name: str) -> bool:
    """As everybody on the host sees it."""
    if isinstance(world.host, FakeHost):
        return world.host.carriers.get(name, True)
    return "NO-CARRIER" not in program("ip", "link", "show", "dev", name)


def test_a_taps_cable_is_pulled_and_plugged_in_as_the_host_sees_it(world: World) -> None:
    """All else stays as it is: its place, its properties, its mark."""
    world.do(TAP)
    before = world.there("qn-a")
    for on in (False, True, False):
        world.do(SetCarrier("qn-a", on=on))
        assert has_carrier(world, "qn-a") is on
        assert world.there("qn-a") == before
    world.do(SetMaster("qn-a", None), SetLink("qn-a", mtu=1400), SetMaster("qn-a", "br0"))
    assert not has_carrier(world, "qn-a")


def test_a_new_tap_has_its_cable_in(world: World) -> None:
    """Also one whose predecessor of that name had not."""
    world.do(TAP, SetCarrier("qn-a", on=False), DelLink("qn-a", TAP.mark))
    world.host.close()
    world.do(TAP)
    assert has_carrier(world, "qn-a")


def test_the_inverse_of_a_pulled_cable_is_how_it_was_said_to_be(world: World) -> None:
    pull = SetCarrier("qn-a", on=False, was=True)
    undo = pull.inverse(world.host.photograph(Wanted()))
    assert undo is not None
    world.do(TAP, pull, undo)
    assert has_carrier(world, "qn-a")


def test_a_cable_of_nothing_is_not_pulled(world: World) -> None:
    with pytest.raises(Gone):
        world.do(SetCarrier("qn-a", on=False))


@pytest.mark.parametrize("name", ["br0", "eth1", "mv0"])
def test_what_has_no_carrier_of_its_own_to_lose_refuses(world: World, name: str) -> None:
    """That of a macvtap is its parent's, that of a bridge its ports', that of a veth its peer's."""
    world.do(MACVTAP, SetLink("mv0", up=True))
    with refused(errno.EOPNOTSUPP):
        world.do(SetCarrier(name, on=False))


# ---------------------------------------------------------------- ports of a bridge


def isolated(world: World) -> bool:
    if isinstance(world.host, FakeHost):
        return "qn-a" in world.host.isolated
    return "isolated on" in program("bridge", "-d", "link", "show", "dev", "qn-a")


def test_a_port_is_isolated_from_the_start_or_while_it_is_used(world: World) -> None:
    world.do(replace(TAP, isolated=True))
    assert isolated(world)
    assert world.there("qn-a").up
    off = SetPort("qn-a", isolated=False, was=True)
    back = off.inverse(world.host.photograph(Wanted()))
    assert back == SetPort("qn-a", isolated=True)
    world.do(off)
    assert not isolated(world)
    world.do(back)
    assert isolated(world)


def test_a_port_that_is_plugged_out_forgets_that_it_was_isolated(world: World) -> None:
    world.do(replace(TAP, isolated=True), SetMaster("qn-a", None), SetMaster("qn-a", "br0"))
    assert not isolated(world)


@pytest.mark.parametrize("name", ["qn-none", "eth1"])
def test_what_is_no_port_of_a_bridge_is_isolated_from_nobody(world: World, name: str) -> None:
    with pytest.raises(Gone):
        world.do(SetPort(name, isolated=True))
