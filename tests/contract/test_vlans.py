"""What every host promises about the VLANs of ports."""

from __future__ import annotations

import errno
import json

import pytest

from qemunet.errors import Gone
from qemunet.frozen import replace
from qemunet.host import vlans
from qemunet.steps import DelLink, FilterVlans, Mark, OpenTap, SetMaster, SetVlans, Vlans
from qemunet.testing.fake import FakeHost
from tests.dump import program

from .conftest import World, refused

TAP = OpenTap("a:net0", "qn-a", Mark("vm/a", "net0", 0x4000_0007), "fe:54:00:00:00:01", 1500, "br0")
TRUNK = Vlans(7, (10, 20))


@pytest.fixture
def able(world: World) -> None:
    """Skip what this kernel cannot do."""
    if not isinstance(world.host, FakeHost) and not vlans.is_able():
        pytest.skip("bridges of this kernel do not tell VLANs apart")


def shown(world: World, port: str, *, own: bool = False) -> str:
    """The VLANs of a port."""
    if isinstance(world.host, FakeHost):
        return str(world.host.vlans.get((port, own), Vlans(1)))
    known = json.loads(program("bridge", "-j", "-compressvlans", "vlan", "show", "dev", port))
    found = known[0]["vlans"] if known else []
    native = next((one["vlan"] for one in found if "PVID" in one.get("flags", [])), None)
    every = {vlan for one in found for vlan in range(one["vlan"], one.get("vlanEnd", one["vlan"]) + 1)}
    return str(Vlans(native, tuple(sorted(every - {native}))))


@pytest.mark.usefixtures("able")
def test_a_port_is_in_the_vlans_that_it_is_put_into_and_in_no_other(world: World) -> None:
    """The same twice is no error; None puts it back."""
    world.do(FilterVlans("br0"), TAP)
    for wanted in (Vlans(10), TRUNK, TRUNK, Vlans(None, (1, 30)), None):
        world.do(SetVlans("qn-a", wanted))
        assert shown(world, "qn-a") == str(wanted or Vlans(1))
    world.do(DelLink("qn-a", TAP.mark), FilterVlans("br0", on=False))


@pytest.mark.usefixtures("able")
def test_a_tap_is_opened_in_its_vlans(world: World) -> None:
    world.do(FilterVlans("br0"), replace(TAP, vlans=TRUNK))
    assert shown(world, "qn-a") == str(TRUNK)
    assert world.there("qn-a").up
    world.do(DelLink("qn-a", TAP.mark), FilterVlans("br0", on=False))


@pytest.mark.usefixtures("able")
def test_a_port_forgets_its_vlans_when_it_is_plugged_out(world: World) -> None:
    """And where it is none, it has none."""
    world.do(TAP, SetVlans("qn-a", Vlans(10)), SetMaster("qn-a", None))
    with pytest.raises(Gone):
        world.do(SetVlans("qn-a", Vlans(10)))
    world.do(SetMaster("qn-a", "br0"))
    assert shown(world, "qn-a") == "1"


@pytest.mark.usefixtures("able")
def test_a_bridge_itself_is_in_vlans_of_its_own(world: World) -> None:
    world.do(SetVlans("br0", Vlans(20), own=True))
    assert shown(world, "br0", own=True) == "20"
    world.do(SetVlans("br0", None, own=True))
    assert shown(world, "br0", own=True) == "1"


@pytest.mark.usefixtures("able")
def test_a_photograph_shows_whether_a_bridge_tells_vlans_apart(world: World) -> None:
    for on in (True, False):
        world.do(FilterVlans("br0", on=on))
        assert world.there("br0").vlan_filtering is on


@pytest.mark.parametrize("step", [FilterVlans("br9"), SetVlans("qn-a", Vlans(10)), SetVlans("qn-a", None)])
def test_what_is_not_there_is_in_no_vlan(world: World, step: FilterVlans | SetVlans) -> None:
    """On the way back that is as good as done."""
    with pytest.raises(Gone):
        world.do(step)


def test_a_kernel_that_cannot_says_so(world: World) -> None:
    """And nothing is left of the tap."""
    if isinstance(world.host, FakeHost):
        world.host.can_filter = False
    elif vlans.is_able():
        pytest.skip("bridges of this kernel tell VLANs apart")
    with refused(errno.EOPNOTSUPP):
        world.do(FilterVlans("br0"))
    with refused(errno.EOPNOTSUPP):
        world.do(replace(TAP, vlans=TRUNK))
    assert world.link("qn-a") is None
