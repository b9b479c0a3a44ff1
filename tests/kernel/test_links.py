"""What only a real kernel can show about links, with ip(8) as a witness."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import Gone
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host import links, netlink
from qemunet.host.linux import LinuxHost
from qemunet.host.netns import Namespace, macvtap_device
from qemunet.model.nic import MacvtapMode
from qemunet.steps import (
    AddLink,
    BridgeLink,
    DelGroup,
    DelLink,
    MacvtapLink,
    Mark,
    OpenMacvtap,
    OpenTap,
    SetLink,
    SetMaster,
)

from .conftest import ip

GROUP = 0x4000_0011
MARK = Mark("net/lab", "bridge", GROUP)
TUNGETIFF = 0x800454D2


def bridge(name: str = "br9", mtu: int = 1500, **options: Any) -> AddLink:
    return AddLink(name, BridgeLink("02:11:22:33:44:55", mtu, **options), MARK)


def tap(number: int, **options: Any) -> OpenTap:
    mark = Mark("vm/a", f"net{number}", GROUP + 1)
    base = OpenTap(f"a:net{number}", f"qn-a{number}", mark, f"fe:54:00:00:01:{number:02x}", 1500, "br0")
    return replace(base, **options)


def seen(name: str) -> dict[str, Any]:
    """What ip(8) says of a link."""
    out = subprocess.run(["ip", "-j", "-d", "link", "show", name], capture_output=True, text=True, check=True)
    (link,) = json.loads(out.stdout)
    assert isinstance(link, dict)
    return link


def test_ip_sees_the_bridge_that_was_ordered(host: LinuxHost) -> None:
    host.perform(bridge(mtu=1400, stp=True, forward_delay=4, ageing=60))
    link = seen("br9")
    data = link["linkinfo"]["info_data"]
    assert (link["address"], link["mtu"], link["altnames"]) == ("02:11:22:33:44:55", 1400, [MARK.altname])
    assert (data["stp_state"], data["forward_delay"], data["ageing_time"]) == (1, 400, 6000)
    assert int(link["group"]) == GROUP
    host.perform(DelLink("br9", MARK))


@pytest.mark.parametrize("mtu", [68, 1400, 1500, 9000, 65535])
def test_a_smaller_port_does_not_change_the_bridge(host: LinuxHost, mtu: int) -> None:
    host.perform(bridge(mtu=mtu))
    host.perform(tap(0, master="br9", mtu=1280))
    link = seen("br9")
    assert (link["mtu"], link["address"]) == (mtu, "02:11:22:33:44:55")
    host.close()
    host.perform(DelLink("br9", MARK))


def test_ip_sees_the_tap_that_was_ordered(host: LinuxHost) -> None:
    host.perform(tap(0, queues=2))
    link = seen("qn-a0")
    data = link["linkinfo"]["info_data"]
    assert (link["master"], link["address"], link["altnames"]) == ("br0", "fe:54:00:00:01:00", ["qemunet.vm-a.net0"])
    assert (data["type"], data["vnet_hdr"], data["pi"], data["persist"]) == ("tap", True, False, False)
    assert data["multi_queue"]
    assert data["numqueues"] == 2
    assert "UP" in link["flags"]


def test_a_photograph_shows_links_as_ip_does(host: LinuxHost) -> None:
    host.perform(tap(0))
    found = host.photograph(Wanted(links=frozenset({"lo", "br0", "eth1", "qn-a0", "none"}))).links
    assert found.keys() == {"lo", "br0", "eth1", "qn-a0"}
    for name, link in found.items():
        witness = seen(name)
        assert (link.index, link.mac, link.mtu) == (witness["ifindex"], witness["address"], witness["mtu"])
        assert link.kind == witness.get("linkinfo", {}).get("info_kind", "")
        assert link.master == witness.get("master")
        assert link.up == ("UP" in witness["flags"])


def test_the_longest_names_make_a_mark_that_fits(host: LinuxHost) -> None:
    mark = Mark(f"vm/{'v' * 63}", "n" * 63, GROUP)
    host.perform(tap(0, mark=mark))
    assert seen("qn-a0")["altnames"] == [mark.altname]
    host.perform(DelLink("qn-a0", mark))


def test_half_a_mark_is_enough_to_be_ours(host: LinuxHost) -> None:
    """A process may be killed between the two messages that make a link and its altname."""
    ip("link", "add", "br9", "group", str(GROUP), "type", "bridge")
    host.perform(DelLink("br9", MARK))
    assert links.find(host.net, "br9") is None


def test_a_link_that_was_renamed_is_found_by_its_mark(host: LinuxHost) -> None:
    host.perform(bridge())
    ip("link", "set", "br9", "name", "renamed")
    host.perform(DelLink("br9", MARK))
    assert links.find(host.net, "renamed") is None


def test_links_without_a_group_of_ours_are_never_deleted(host: LinuxHost) -> None:
    """Group 0 holds every interface of the host."""
    for group in (0, 7):
        mark = Mark("net/lab", "bridge", group)
        with pytest.raises(Gone):
            host.perform(DelLink("br0", mark))
        with pytest.raises(Gone):
            host.perform(DelGroup((DelLink("br0", mark), DelLink("eth1", mark))))


class Counter(netlink.Netlink):
    """Counts the messages that delete something."""

    deletions = 0

    def do(self, *requests: netlink.Request) -> None:
        self.deletions += sum(request.kind == netlink.DELLINK for request in requests)
        super().do(*requests)


def test_a_scope_goes_in_one_message(host: LinuxHost) -> None:
    counter = Counter(netlink.open_socket())
    steps = [tap(number) for number in range(10)]
    for step in steps:
        host.perform(step)
    links.delete_group(counter, DelGroup(tuple(DelLink(step.name, step.mark) for step in steps)))
    assert counter.deletions == 1
    assert not [link for link in links.everything(host.net) if link.group == GROUP + 1]
    counter.close()


def test_a_stranger_in_the_group_survives(host: LinuxHost) -> None:
    steps = [tap(number) for number in range(2)]
    for step in steps:
        host.perform(step)
    ip("link", "add", "stranger", "group", str(GROUP + 1), "type", "bridge")
    host.perform(DelGroup(tuple(DelLink(step.name, step.mark) for step in steps)))
    assert [link.name for link in links.everything(host.net) if link.group == GROUP + 1] == ["stranger"]
    ip("link", "del", "stranger")


def test_the_kernels_own_words_are_passed_on(host: LinuxHost) -> None:
    ip("link", "add", "br9", "type", "bridge")
    with pytest.raises(OSError, match="Can not enslave a bridge to a bridge"):
        host.perform(SetMaster("br9", "br0"))
    ip("link", "del", "br9")


def test_a_macvtap_is_opened_by_its_own_number(host: LinuxHost, tmp_path: Path) -> None:
    """Two namespaces may use one ifindex; ``/dev/tap<ifindex>`` then stands for the first of the two."""
    other = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        for target in (f"--net=/proc/{other.pid}/ns/net", None):
            _until_in_namespace(other.pid)
            enter = ["nsenter", target] if target else []
            for words in (
                "link add par type veth peer name rap",
                "link set par up",
                "link add mv0 link par index 4242 type macvtap mode bridge" if target else "link show lo",
            ):
                subprocess.run([*enter, "ip", *words.split()], check=True, stdout=subprocess.DEVNULL)
        ip("link", "add", "link", "par", "name", "mv0", "index", "4242", "type", "macvtap", "mode", "bridge")
        elsewhere = Namespace(f"/proc/{other.pid}/ns/net")
        assert macvtap_device("mv0") != elsewhere.inside(lambda: macvtap_device("mv0"))
        host.perform(OpenMacvtap("a:net0", "mv0", queues=2))
        device = {os.fstat(fd).st_rdev for fd in host.handles["a:net0"]}
        assert device == {macvtap_device("mv0")}
        (name,) = {fcntl.ioctl(fd, TUNGETIFF, bytes(40))[:16].strip(b"\0") for fd in host.handles["a:net0"]}
        assert name == b"mv0"
        ip("link", "del", "mv0")
        ip("link", "del", "par")
    finally:
        other.kill()
        other.wait()


def _until_in_namespace(pid: int) -> None:
    while os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        os.sched_yield()


def test_a_macvtap_of_a_lab_comes_and_goes(host: LinuxHost) -> None:
    mark = Mark("vm/a", "net0", GROUP + 1)
    host.perform(AddLink("mv0", MacvtapLink("eth1", MacvtapMode.PRIVATE, "52:54:00:00:00:01", 1500), mark))
    host.perform(SetLink("mv0", up=True))
    assert seen("mv0")["linkinfo"]["info_data"]["mode"] == "private"
    host.perform(DelLink("mv0", mark))


def test_a_host_can_be_another_namespace(host: LinuxHost, fresh: Path) -> None:
    """Nothing happens where the process itself is."""
    other = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        _until_in_namespace(other.pid)
        there = LinuxHost(str(fresh), Namespace(f"/proc/{other.pid}/ns/net"))
        there.perform(bridge())
        there.perform(tap(0, master="br9"))
        photograph = there.photograph(
            Wanted(links=frozenset({"qn-a0"}), sysctls=frozenset({"net.ipv6.conf.qn-a0.disable_ipv6"}))
        )
        assert photograph.links["qn-a0"].master == "br9"
        assert photograph.sysctls == {"net.ipv6.conf.qn-a0.disable_ipv6": "1"}
        assert links.find(host.net, "qn-a0") is None
        there.close()
    finally:
        other.kill()
        other.wait()


def test_a_photograph_shows_routes_and_addresses_as_ip_does(host: LinuxHost) -> None:
    ip("address", "add", "10.7.0.1/24", "dev", "eth1")
    ip("route", "add", "10.8.0.0/16", "via", "10.7.0.9")
    ip("route", "add", "default", "nexthop", "via", "10.7.0.8", "nexthop", "via", "10.7.0.9")
    found = host.photograph(Wanted(routes=True))
    assert found.addresses["eth1"] == ("10.7.0.1/24",)
    assert found.addresses["lo"] == ("127.0.0.1/8", "::1/128")
    assert {(route.destination, route.device, route.gateway) for route in found.routes if "." in route.destination} == {
        ("10.7.0.0/24", "eth1", None),
        ("10.8.0.0/16", "eth1", "10.7.0.9"),
    }
    assert {route.gateway for route in found.routes if route.destination == "default"} == {"10.7.0.8", "10.7.0.9"}
    for words in ("route del default", "route del 10.8.0.0/16", "address del 10.7.0.1/24 dev eth1"):
        ip(*words.split())


def test_a_photograph_shows_whose_addresses_a_bridge_knows(host: LinuxHost) -> None:
    host.perform(tap(0))
    subprocess.run(["bridge", "fdb", "add", "52:54:00:00:00:09", "dev", "qn-a0", "master", "static"], check=True)
    found = host.photograph(Wanted(bridges=frozenset({"br0", "none"}))).macs_on_bridge
    assert found == {"br0": frozenset({"52:54:00:00:00:09", seen("br0")["address"]}), "none": frozenset()}
    host.close()


def test_pyroute2_agrees(host: LinuxHost) -> None:
    pyroute2 = pytest.importorskip("pyroute2")
    host.perform(bridge(mtu=1400))
    with pyroute2.IPRoute() as witness:
        (link,) = witness.get_links(ifname="br9")
        assert link.get_attr("IFLA_GROUP") == GROUP
        assert link.get_attr("IFLA_ADDRESS") == "02:11:22:33:44:55"
        assert link.get_attr("IFLA_MTU") == 1400
    host.perform(DelLink("br9", MARK))
