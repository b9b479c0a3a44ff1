"""`plan --shell` does what `run` does: the same interfaces, addresses, routes, rules, sysctls, services and machines.

Each is seen afresh. What differs by nature and is left out: numbers of interfaces and rules; that the script's taps are
persistent and somebody's (``persist``, ``user``), since a shell cannot hold them open, and so had no carrier at first
(``operstate``); clocks; whom dnsmasq runs as; and whom QEMU runs as where only root may open /dev/net/tun: then it is
root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests import namespace
from tests.dump import ip as listed
from tests.dump import qdiscs
from tests.world import World, fresh_world, until

from .conftest import ip, quiet

VMS = ("one", "two")
OURS = ("qn-lab", "qn-open", "qn-out", "qn-cabled", "qn-cabled-host", "qn-cabled-port", "qn-host-eth1")
LAB = """
[network.lab]
mode = "private"
ageing = "60s"
mtu = 1450
[network.open]
mode = "isolated"
address = ["10.66.0.1/24", "fd66::1/64"]
stp = true
[network.out]
mode = "nat"
address = ["10.69.0.1/24"]
uplink = "eth0"
dhcp = { range = ["10.69.0.100", "10.69.0.200"], options = { ntp-server = "192.0.2.9" } }
dns = { domain = "lab.test", hosts = { db = "10.69.0.7" } }
hosts = [{ mac = "52:54:00:aa:bb:cc", ip = "10.69.0.8", name = "printer" }]
forward = ["tcp::8080:two:80", "udp:127.0.0.1:5300-5301:two:53-54"]
[network.cabled]
mode = "isolated"
address = ["10.70.0.1/24", "fd70::1/64"]
host = "veth"
mtu = 1400
[network.public]
mode = "bridge"
bridge = "br0"

[vm.one]
memory = "64M"
accel = "tcg"
cpus = 2
[[vm.one.nic]]
network = "lab"
queues = 2
rate = { in = "100mbit", out = "1.5mbps" }
[[vm.one.nic]]
id = "cut"
network = "open"
model = "e1000"
link = "down"
[[vm.one.nic]]
id = "plugged"
network = "open"
model = "e1000"

[vm.two]
profile = "pc"
memory = "48M"
accel = "tcg"
[[vm.two.nic]]
network = "public"
ifup = "hook"
ifdown = "hook"
[[vm.two.nic]]
address = ["10.67.0.1/30", "fd67::1/64"]
routes = ["10.68.0.0/24", "fd68::/64"]
[[vm.two.nic]]
parent = "eth1"
ip = ["198.51.100.9/24", "2001:db8::9/64"]
host-macvlan = true
rate = { in = "40gbit", out = "64kbit" }
[[vm.two.nic]]
network = "out"
ip = ["10.69.0.9/24"]
[[vm.two.nic]]
id = "cabled"
network = "cabled"
"""
HOOK = """\
#!/bin/sh
echo "$0 $1 $QEMUNET_LAB $QEMUNET_VM $QEMUNET_NIC $QEMUNET_MAC $QEMUNET_BRIDGE $QEMUNET_NETWORK" >>"$0.ran"
"""
# Of a tap: whose it is, and that it stays. Of links: numbers, and clocks of bridges.
BY_NATURE = {"ifindex", "link_index", "link_netnsid", "persist", "user"}
# A run passes taps open; a script's QEMU opens them itself, so here and there it has to keep the rights of root.
EVERYBODYS_TUN = os.stat("/dev/net/tun").st_mode & 0o006 == 0o006
CLOCK = re.compile(r"_timer$")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place that another user's QEMU can reach, other than pytest's."""
    path = Path(tempfile.mkdtemp(prefix="qemunet-test-"))
    path.chmod(0o755)
    (path / "host").mkdir()
    (path / "hook").write_text(HOOK)
    (path / "hook").chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[World]:
    """A host with a bridge and two uplinks, always the same one."""
    with fresh_world(folder) as world:
        ip("link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
        for number, name in enumerate(("eth0", "eth1"), 2):
            peer = f"name {name}-peer address 02:00:00:00:01:0{number}"
            ip("link", "add", name, "address", f"02:00:00:00:00:0{number}", "type", "veth", "peer", *peer.split())
            quiet(f"{name}-peer")
            ip("link", "set", name, "addrgenmode", "none")
        quiet("br0", "eth0")
        for name in ("br0", "eth0", "eth0-peer", "eth1", "eth1-peer"):
            ip("link", "set", name, "up")
        ip("address", "add", "192.0.2.1/24", "dev", "eth0")
        ip("address", "add", "198.51.100.1/24", "dev", "eth1")
        ip("address", "add", "2001:db8::1/64", "dev", "eth1", "nodad")
        for name in ("default", "eth0", "eth1"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("0")
        until(settled, "the host is ready")
        world.mark()
        yield world
        assert not world.left()


# ---------------------------------------------------------------- what netlink shows


def settled() -> bool:
    """Whether the kernel is through with what it does by itself: checking addresses, routes for multicast, waiting."""
    ports = listed("-d", "link", "show", "type", "bridge_slave")
    plugged = [link["linkinfo"]["info_slave_data"] for link in ports if "LOWER_UP" in link["flags"]]
    if any(port["state"] != "forwarding" for port in plugged):
        return False  # a bridge has a carrier only when one of its ports does that
    routed = {route["dev"] for route in listed("-6", "route", "show", "table", "local") if route["dst"] == "ff00::/8"}
    links = [link for link in listed("address") if {"UP", "LOWER_UP"} <= {*link["flags"]} and link["ifname"] != "lo"]
    expected = {link["ifname"] for link in links if not sysctl(f"ipv6/conf/{link['ifname']}/disable_ipv6")}
    tentative = any(one.get("tentative") for link in links for one in link["addr_info"])
    return not tentative and routed == expected


def sysctl(path: str) -> int:
    return int(Path("/proc/sys/net", path).read_text())


def network() -> dict[str, Any]:
    """All that there is, but for what differs by nature."""
    until(settled, "the kernel is through")
    links = {link["ifname"]: without(link) for link in listed("-d", "link")}
    for link in links.values():
        if link.get("linkinfo", {}).get("info_kind") == "tun":
            assert link["operstate"] in ("UNKNOWN", "UP", "DOWN")
            if link["operstate"] == "UNKNOWN":
                link["operstate"] = "UP"  # it has a carrier from the beginning, not since QEMU
    addresses = {link["ifname"]: [without(one) for one in link["addr_info"]] for link in listed("address")}
    routes = [json.dumps(without(one), sort_keys=True) for kind in "46" for one in routes_of(kind)]
    neighbours = listed("neighbour", "show", "nud", "permanent") + listed("neighbour", "show", "proxy")
    return {
        "links": links,
        "addresses": addresses,
        "routes": sorted(routes),
        "neighbours": sorted(json.dumps(one, sort_keys=True) for one in neighbours),
        "qdiscs": qdiscs(),
        "rules": rules(),
        "listeners": listeners(),
        "sysctls": {name: sysctls(name) for name in links if name.startswith(("qn-", "eth", "br"))},
    }


def routes_of(kind: str) -> list[dict[str, Any]]:
    return listed(f"-{kind}", "route", "show", "table", "all")


def without(value: Any) -> Any:
    """The same without numbers of interfaces, clocks, and what a persistent tap has."""
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if key not in BY_NATURE and not CLOCK.search(key)}
    return [without(one) for one in value] if isinstance(value, list) else value


def sysctls(name: str) -> dict[str, str]:
    found = {}
    for folder in ("ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"):
        for file in Path("/proc/sys/net", folder, name).glob("*"):
            with contextlib.suppress(OSError):  # stable_secret, while it is not set
                found[f"{folder}/{file.name}"] = file.read_text()
    return found


def rules() -> Any:
    """All tables, but for the numbers of their rules."""
    done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True)
    return unnumbered(json.loads(done.stdout)["nftables"][1:])


def unnumbered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unnumbered(one) for key, one in value.items() if key != "handle"}
    return [unnumbered(one) for one in value] if isinstance(value, list) else value


def listeners() -> list[str]:
    """Who can be asked what: protocol, address and port of all that waits, as the kernel writes it."""
    found = []
    for protocol, waiting in (("udp", "07"), ("udp6", "07"), ("tcp", "0A"), ("tcp6", "0A")):
        rows = [line.split() for line in Path("/proc/thread-self/net", protocol).read_text().splitlines()[1:]]
        found += [f"{protocol} {row[1]}" for row in rows if row[3] == waiting]
    return sorted(found)


def services(directory: Path) -> dict[str, str]:
    """What a network's dnsmasq reads."""
    names = [path for path in directory.rglob("*") if path.is_file() and path.name not in ("pid", "leases")]
    return {str(path.relative_to(directory)): path.read_text() for path in names}


# ---------------------------------------------------------------- what QEMU shows


class Monitor:
    """The monitor that is the user's own."""

    def __init__(self, path: Path) -> None:
        until(path.exists, f"{path} is there")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile()
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def say(self, line: str) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": line})).replace("\r", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()


def guest(directory: Path) -> dict[str, Any]:
    """What a QEMU is: program, identity, machine, and every device with its properties."""
    pid = int((directory / "pid").read_text())
    with Monitor(directory / "monitor.sock") as monitor:
        return {
            "program": os.readlink(f"/proc/{pid}/exe"),
            "users": re.findall(r"(?m)^[UG]id:.*$", Path(f"/proc/{pid}/status").read_text()),
            "status": monitor.ask("query-status")["status"],
            "machine": monitor.ask("qom-get", path="/machine", property="type"),
            "cpus": [
                monitor.ask("qom-get", path=cpu["qom-path"], property="type") for cpu in monitor.ask("query-cpus-fast")
            ],
            "memory": monitor.ask("query-memory-size-summary"),
            "peripherals": monitor.ask("qom-list", path="/machine/peripheral"),
            "devices": re.sub(r"(?m)^ +bar \d.*\n", "", monitor.say("info qtree")),  # the firmware places them
            "network": re.findall(
                r"(?m)^[ \\]*([\w-]+: index=\d+,type=\w+(?:,model=[^\n]*)?)", monitor.say("info network")
            ),
            "links": {nic: has_link(monitor, nic) for nic in ("cut", "plugged")} if directory.name == "one" else {},
        }


def has_link(monitor: Monitor, nic: str) -> bool:
    """Whether an e1000's cable is plugged in: bit 1 of its register STATUS, once the firmware has placed those."""
    found: list[int] = []

    def placed() -> bool:
        found[:] = [address for device, address in registers(monitor.ask("query-pci")) if device == nic]
        return bool(found) and found[0] > 0

    until(placed, f"the registers of {nic} are somewhere")
    return bool(int(monitor.say(f"xp /1wx {found[0] + 8:#x}").split()[-1], 16) & 2)


def registers(buses: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    for device in (device for bus in buses for device in bus["devices"]):
        yield from ((device["qdev_id"], region["address"]) for region in device["regions"][:1])
        if "pci_bridge" in device:
            yield from registers([{"devices": device["pci_bridge"].get("devices", [])}])


# ---------------------------------------------------------------- the two of them


def by_run(folder: Path) -> dict[str, Any]:
    with machine(folder) as world:
        world.succeeds("run", "-d", world.write(LAB))
        found = {"network": network(), **{vm: guest(world.runtime / "vm" / vm) for vm in VMS}}
        found["services"] = services(world.runtime / "net" / "out" / "dnsmasq")
        found["mtu"] = mtu_with_a_smaller_port()
        world.succeeds("stop", "--force", *VMS)
        return {**found, "hooks": said(folder)}


def by_script(folder: Path) -> dict[str, Any]:
    with machine(folder) as world:
        script = folder / "lab.sh"
        script.write_text(world.succeeds("plan", "--shell", world.write(LAB)))
        run = folder / "sh"
        try:
            shell(script, "up", run)
            found = {"network": network(), **{vm: guest(run / vm) for vm in VMS}}
            found["services"] = services(run / "out.dnsmasq")
            found["mtu"] = mtu_with_a_smaller_port()
        finally:
            pids = [int(file.read_text()) for file in run.glob("*/pid")]
            shell(script, "down", run)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert not run.exists()
        return {**found, "hooks": said(folder)}


def shell(script: Path, word: str, run: Path) -> None:
    environment = {**os.environ, "run": str(run)}
    done = subprocess.run(["sh", script, word], env=environment, capture_output=True, text=True, timeout=120)
    said = [] if EVERYBODYS_TUN else re.findall(r"note: user \d+ has no access to /dev/net/tun, .*\n", done.stderr)
    said += [] if shutil.which("ethtool") else re.findall(r"note: without ethtool .*\n", done.stderr)
    assert (done.returncode, sorted(done.stderr.splitlines(keepends=True))) == (0, sorted(said)), done.stderr


def mtu_with_a_smaller_port() -> int:
    """What becomes of the MTU of a bridge of ours: it was chosen, so it stays, though nothing shows that it was."""
    ip("link", "add", "small", "mtu", "1300", "type", "veth", "peer", "name", "small-peer")
    ip("link", "set", "small", "master", "qn-lab")
    (bridge,) = listed("link", "show", "dev", "qn-lab")
    ip("link", "del", "small")
    return int(bridge["mtu"])


def said(folder: Path) -> str:
    ran = folder / "hook.ran"
    text = ran.read_text()
    ran.unlink()
    return text


def test_a_script_does_what_run_does_and_takes_it_back(folder: Path) -> None:
    """Two fresh hosts, one of either."""
    if why := namespace.lack():
        pytest.skip(why)
    run = by_run(folder)
    script = by_script(folder)
    names = {*run["network"]["links"]}
    assert {*OURS, "qn-one-cut", "qn-one-plugged", "qn-two-net0", "qn-two-net1", "qn-two-net2", "qn-two-net3"} <= names
    assert run["one"]["links"] == {"cut": False, "plugged": True}
    assert run["hooks"].count("\n") == 2
    assert len([one for one in run["network"]["qdiscs"] if one.startswith("qdisc tbf 1:")]) == 4
    assert run["mtu"] == 1450
    tables = [one["table"]["name"] for one in run["network"]["rules"] if "table" in one]
    assert {name.split("-")[1] for name in tables} == {"cabled", "open", "out"}
    assert {"tcp 0100450A:0035", "udp 0100450A:0035", "udp 00000000:0043"} == {*run["network"]["listeners"]}
    assert len(run["services"]) == 4
    if not EVERYBODYS_TUN:
        for vm in VMS:
            del run[vm]["users"], script[vm]["users"]
    assert not [*differences(run, script)], "\n".join(differences(run, script))


def differences(run: Any, script: Any, path: str = "") -> Iterator[str]:
    """Each value that is not the same, with the way to it."""
    if isinstance(run, dict) and isinstance(script, dict):
        for key in dict.fromkeys([*run, *script]):
            yield from differences(run.get(key), script.get(key), f"{path}/{key}")
    elif isinstance(run, list) and isinstance(script, list) and len(run) == len(script):
        for number, pair in enumerate(zip(run, script, strict=True)):
            yield from differences(*pair, f"{path}/{number}")
    elif run != script:
        yield f"{path}: run: {run}; script: {script}"
