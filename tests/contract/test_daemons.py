"""What serves a network is started once and ended once, on a fake host and on a real one."""

from __future__ import annotations

import errno

import pytest

from qemunet.errors import Failed, Gone
from qemunet.facts import Wanted
from qemunet.plan import dhcp
from qemunet.steps import EndDaemon, Reconfigure, Reserve, SetOffload, StartDaemon, Unreserve, WriteFile

from .conftest import World, refused

CONF = "interface=br0\nexcept-interface=lo\nbind-dynamic\nno-hosts\nno-resolv\nport=0\n"


def scope(world: World) -> str:
    (world.runtime / "net" / "lab").mkdir(parents=True)
    return str(world.runtime / "net" / "lab")


def start(directory: str) -> StartDaemon:
    return StartDaemon("dnsmasq", directory, dhcp.argv(), "network.lab", ready=": started,", writes=(dhcp.LEASES,))


def write(world: World, directory: str) -> None:
    for name, text in ((dhcp.CONF, CONF), (dhcp.NAMES, ""), (f"{dhcp.HOSTS}/known", "")):
        world.do(WriteFile(f"{directory}/dnsmasq/{name}", text))


def test_there_is_one_and_then_none(world: World) -> None:
    """A second one is refused, and the first goes on; one that is gone has not to be ended."""
    directory = scope(world)
    write(world, directory)
    one = start(directory)
    world.do(one)
    with pytest.raises(Failed, match="runs already"):
        world.do(one)
    end = EndDaemon("dnsmasq", directory)
    world.do(end)
    with pytest.raises(Gone):
        world.do(end)


def test_a_reservation_comes_and_goes(world: World) -> None:
    """Whether there is somebody to read it or not; what is not there has not to be removed."""
    directory = scope(world)
    write(world, directory)
    world.do(Reserve("dnsmasq", directory, "hosts/a.net0", "52:54:00:00:00:01,a\n"))
    assert world.text("net/lab/dnsmasq/hosts/a.net0") == "52:54:00:00:00:01,a\n"
    world.do(Unreserve("dnsmasq", directory, "hosts/a.net0"))
    with pytest.raises(Gone):
        world.do(Unreserve("dnsmasq", directory, "hosts/a.net0"))


def test_only_an_interface_that_is_there_can_be_set(world: World) -> None:
    world.do(SetOffload("br0", on=False), SetOffload("br0", on=True))
    with refused(errno.ENODEV):
        world.do(SetOffload("nothing", on=False))


def test_one_begins_again_with_other_files_and_goes_back_to_those_it_had(world: World) -> None:
    """Where none was started there is none to begin again."""
    directory = scope(world)
    write(world, directory)
    other = Reconfigure("dnsmasq", directory, "network.lab", ((dhcp.NAMES, "192.0.2.1 db\n"),), was=((dhcp.NAMES, ""),))
    with pytest.raises(Gone):
        world.do(other)
    world.do(start(directory), other)
    assert world.text("net/lab/dnsmasq/names") == "192.0.2.1 db\n"
    back = other.inverse(world.host.photograph(Wanted()))
    assert isinstance(back, Reconfigure)
    world.do(back)
    assert world.text("net/lab/dnsmasq/names") == ""
    world.do(EndDaemon("dnsmasq", directory))
