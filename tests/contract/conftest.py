"""Two worlds that look alike: a fake host, and this machine seen from a fresh network namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.facts import Facts, LinkFact, Wanted
from qemunet.host.linux import LinuxHost
from qemunet.steps import Step
from qemunet.testing.fake import FakeHost
from tests import namespace
from tests.dump import dump, left_behind, program

UPLINK_MAC = "02:00:00:00:00:01"
BRIDGE_MAC = "02:00:00:00:00:02"
OTHER_MAC = "02:00:00:00:00:03"


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    """Claim that what is inside ends with this errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code


class World:
    """A host with a bridge ``br0`` and an interface ``eth1`` of somebody else's, both up; `runtime` is a directory."""

    def __init__(self, host: LinuxHost | FakeHost, runtime: Path) -> None:
        self.host = host
        self.runtime = runtime

    def do(self, *steps: Step) -> None:
        for step in steps:
            self.host.perform(step)

    def link(self, name: str) -> LinkFact | None:
        return self.host.photograph(Wanted(links=frozenset({name}))).links.get(name)

    def there(self, name: str) -> LinkFact:
        link = self.link(name)
        assert link is not None, f"{name} is not there"
        return link

    def sysctl(self, key: str) -> str | None:
        return self.host.photograph(Wanted(sysctls=frozenset({key}))).sysctls.get(key)

    def addresses(self, name: str) -> tuple[str, ...]:
        known = self.host.photograph(Wanted(routes=True)).addresses.get(name, ())
        return tuple(address for address in known if not address.startswith("fe80:"))

    def routes(self) -> set[tuple[str, str, str | None]]:
        photograph = self.host.photograph(Wanted(routes=True))
        return {(route.destination, route.device, route.gateway) for route in photograph.routes}

    def make_bridge(self, name: str, mtu: int) -> None:
        """Make a bridge of somebody else's that goes by its ports; it is up."""
        if isinstance(self.host, FakeHost):
            self.host.links[name] = LinkFact(9, name, "bridge", OTHER_MAC, mtu, up=True)
            self.host.unpinned.add(name)
            return
        subprocess.run(["ip", "link", "add", name, "mtu", str(mtu), "type", "bridge"], check=True)
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", name, "up"], check=True)

    def neighbours(self) -> set[tuple[str, str, str | None]]:
        """The neighbours that are known for good: interface, address and MAC, which a proxy of ours has not."""
        if isinstance(self.host, FakeHost):
            return {(name, address, mac) for (name, address, _), mac in self.host.neighbours.items()}
        told = program("ip", "neighbour", "show", "nud", "permanent") + program("ip", "neighbour", "show", "proxy")
        found = [line.split() for line in told.splitlines()]
        return {(one[2], one[0], one[4] if "lladdr" in one else None) for one in found}

    def path(self, name: str) -> str:
        return str(self.runtime / name)

    def make_file(self, name: str, text: str = "", *, executable: bool = False) -> str:
        path = self.path(name)
        if isinstance(self.host, FakeHost):
            self.host.files[path] = text
        else:
            Path(path).write_text(text)
            Path(path).chmod(0o755 if executable else 0o644)
        return path

    def text(self, name: str) -> str | None:
        path = self.path(name)
        if isinstance(self.host, FakeHost):
            return self.host.files.get(path)
        return Path(path).read_text() if os.path.exists(path) else None


def fake_facts(runtime: Path) -> Facts:
    links = [
        LinkFact(1, "lo", "", "00:00:00:00:00:00", 65536, up=True),
        LinkFact(2, "br0", "bridge", BRIDGE_MAC, 1500, up=True),
        LinkFact(3, "eth1", "veth", UPLINK_MAC, 1500, up=True),
    ]
    return Facts(str(runtime), "machine", 0, can_switch_user=True, links={link.name: link for link in links})


def set_up_links() -> None:
    """Make the links without IPv6 addresses of their own, which would come and go with a carrier, at any time."""
    for words in (
        f"link add br0 address {BRIDGE_MAC} type bridge",
        f"link add eth1 address {UPLINK_MAC} type veth peer name eth1-peer address {OTHER_MAC}",
        "link set eth1 addrgenmode none",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    for name in ("br0", "eth1-peer"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    for words in (
        "link set br0 up",
        "link set eth1-peer up",
        "link set eth1 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    deadline = time.monotonic() + 30
    while "ff00::/8" not in program("ip", "-6", "route", "show", "table", "local", "dev", "eth1"):
        assert time.monotonic() < deadline, "eth1 did not get its multicast route"


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A host to act on; when the real one is closed, and the runtime directory cleared, it is as it was."""
    if request.param == "fake":
        yield World(FakeHost(fake_facts(tmp_path)), tmp_path)
        return
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace():
        set_up_links()
        before = dump(tmp_path)
        host = LinuxHost(str(tmp_path))
        yield World(host, tmp_path)
        host.close()
        for name in ("br9", "qn-a", "qn-b", "mv0", "mv1", "qn-a.ifb"):
            subprocess.run(["ip", "link", "del", name], capture_output=True)
        subprocess.run(["ip", "address", "flush", "dev", "eth1", "scope", "global"], check=True)
        for entry in tmp_path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        found = left_behind(before, tmp_path)
        assert not found, found
