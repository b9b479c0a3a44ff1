"""Labs with VLANs, by packets: namespaces as hosts on two switches joined by a trunk, and the host in one VLAN."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.cli.main import main
from qemunet.config import read
from qemunet.host.linux import LinuxHost
from qemunet.live import netchange
from qemunet.state import Runtime
from tests import namespace
from tests.fullkernel.test_vlans import vlans_of
from tests.guest.scene import Peer
from tests.kernel.conftest import quiet
from tests.wires import Machine, ping
from tests.world import TREE, World, fresh_world

SWITCHES = """
[lab]
name = "vlans"
[network.one]
mode = "isolated"
bridge = "one"
vlan-filtering = true
host = "veth"
address = "192.168.5.100/24"
host-vlan = 10
[network.two]
mode = "isolated"
bridge = "two"
vlan-filtering = true
address = "192.168.6.100/24"
host-vlan = 20
[[cable]]
name = "between"
a = "network:one"
b = "network:two"
a-vlan = { trunk = [10, 20] }
b-vlan = { trunk = [10, 20] }
"""
HOST = """
[netns.{name}]
[[cable]]
name = "plug-{name}"
a = "network:{network}"
b = "netns:{name}"
a-name = "port-{name}"
b-name = "eth0"
a-vlan = {vlan}
b-address = [{addresses}]
"""
TEN, TWENTY = "{ access = 10 }", "{ access = 20 }"
HOSTS = (  # name, network, VLANs, addresses
    ("a10", "one", TEN, '"192.168.5.1/24"'),
    ("b20", "one", TWENTY, '"192.168.5.2/24", "192.168.6.2/24"'),
    ("c10", "two", TEN, '"192.168.5.3/24"'),
    ("router", "two", "{ trunk = [20], native = 10 }", '"192.168.5.4/24"'),
)
LAB = SWITCHES + "".join(
    HOST.format(name=name, network=network, vlan=vlan, addresses=addresses) for name, network, vlan, addresses in HOSTS
)
EXAMPLE = str(TREE / "examples" / "vlans-in-a-namespace.toml")
UPLINK = """
[lab]
name = "uplink"
[network.out]
mode = "bridge"
bridge = "out"
ports = ["up0"]
port-vlan = { up0 = { trunk = [10, 20] } }
vlan-filtering = true
host-vlan = 10
address = ["192.168.7.1/24", "192.168.8.1/24"]
"""
PATIENT = 20.0  # seconds for an answer that has to come


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After all tests here it is as it was; /run is the guest's own."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "host").mkdir()
    with fresh_world(folder) as world:
        world.mark()
        run = os.listdir("/run")
        yield world
        found = world.left()
        assert not found, found
        assert os.listdir("/run") == run


def command(world: World, *words: str) -> None:
    """Run a command in this process: to start one takes long in a guest."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QEMUNET_RUNTIME_DIR", str(world.runtime))
        assert main(words) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def inside(world: World, *names: str) -> Iterator[dict[str, Machine]]:
    """The namespaces of the lab."""
    paths = {name: world.runtime / "netns" / name / "net" for name in names}
    machines = {name: Machine(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC)) for name, path in paths.items()}
    try:
        yield machines
    finally:
        for one in machines.values():
            one.close()


def test_who_is_in_a_vlan_reaches_who_else_is_in_it_and_nobody_else(world: World) -> None:
    """On one switch, over the trunk to the other one, and the host; by 802.1Q a router is in two of them.

    A change of the host's VLAN is done while everybody is there; then all is gone.
    """
    file = world.write(LAB)
    command(world, "net", "up", file)
    with inside(world, *(name for name, *_ in HOSTS)) as machines:
        host, router = Machine("host"), machines["router"]
        router.ip("link", "add", "link", "eth0", "name", "eth0.20", "type", "vlan", "id", "20")
        router.ip("address", "add", "192.168.6.4/24", "dev", "eth0.20")
        router.ip("link", "set", "eth0.20", "up")
        for one, other, address in (
            (machines["a10"], "c10, over the trunk", "192.168.5.3"),
            (router, "a10, without a tag", "192.168.5.1"),
            (router, "b20, with one", "192.168.6.2"),
            (host, "a10, by its cable", "192.168.5.1"),
            (machines["b20"], "the host, by the bridge itself", "192.168.6.100"),
        ):
            assert ping(one, address, PATIENT), f"{one.name} to {other}"
        for one, address in ((machines["a10"], "192.168.5.2"), (machines["b20"], "192.168.5.3"), (host, "192.168.5.2")):
            assert not ping(one, address), f"{one.name} to {address}"
        other = read.load(world.write(LAB.replace("host-vlan = 20", "host-vlan = 10")))
        with contextlib.closing(LinuxHost(str(world.runtime))) as this:
            (row,) = netchange.apply(Runtime(str(world.runtime)), this, other, dry=False)
        assert (row.what, row.done) == ("host-vlan: 20 to 10", True)
        assert vlans_of("two") == {10: ["PVID", "Egress Untagged"]}
        assert not ping(router, "192.168.6.100")
    command(world, "net", "down", file)
    found = world.left()
    assert not found, found


def test_hosts_are_in_vlans_of_a_switch_in_a_namespace(world: World) -> None:
    """As the example has it: one VLAN hears itself, no other one, and on the trunk both are told apart by a tag.

    The end of a cable goes to another VLAN while it is used.
    """
    command(world, "net", "up", EXAMPLE)
    with inside(world, "ten", "tenth", "twenty", "both") as machines:
        ten, both, host = machines["ten"], machines["both"], Machine("host")
        both.ip("link", "add", "link", "veth4", "name", "veth4.20", "type", "vlan", "id", "20")
        both.ip("address", "add", "192.168.6.4/24", "dev", "veth4.20")
        both.ip("link", "set", "veth4.20", "up")
        for one, address in ((ten, "192.168.5.2"), (both, "192.168.5.1"), (both, "192.168.6.3")):
            assert ping(one, address, PATIENT), f"{one.name} to {address}"
        for one, address in ((ten, "192.168.5.3"), (machines["twenty"], "192.168.5.4"), (host, "192.168.5.1")):
            assert not ping(one, address), f"{one.name} to {address}"
        text = Path(EXAMPLE).read_text()
        changed = text.replace('"veth2", a-vlan = { access = 10 }', '"veth2", a-vlan = { access = 20 }')
        command(world, "apply", world.write(changed, "vlans-in-a-namespace.toml"))
        assert ping(machines["twenty"], "192.168.5.2", PATIENT), "it is in VLAN 20 by now"
        assert not ping(ten, "192.168.5.2")
    command(world, "net", "down", EXAMPLE)
    found = world.left()
    assert not found, found


def test_an_uplink_is_in_the_vlans_that_its_network_says(world: World) -> None:
    """Whoever is beyond it sees their tags; afterwards it is an interface of the host like any other."""
    with Peer() as beyond:
        namespace.ip(f"link add up0 type veth peer name far0 netns {beyond.pid}")
        quiet("up0")
        namespace.ip("link set up0 up")
        world.mark()
        beyond.run("ip", "link", "set", "far0", "up")
        for number, address in ((10, "192.168.7.9/24"), (30, "192.168.8.9/24")):
            name = f"far0.{number}"
            beyond.run("ip", "link", "add", "link", "far0", "name", name, "type", "vlan", "id", str(number))
            beyond.run("ip", "address", "add", address, "dev", name)
            beyond.run("ip", "link", "set", name, "up")
        file = world.write(UPLINK)
        command(world, "net", "up", file)
        assert vlans_of("up0") == {10: [], 20: []}
        assert ping(Machine("host"), "192.168.7.9", PATIENT)
        assert not ping(Machine("host"), "192.168.8.9")
        command(world, "net", "down", file)
        found = world.left()
        assert not found, found
        namespace.ip("link del up0")
    world.mark()
