"""A network that is up becomes what its file says now: with packets before and after, and all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.crash import covered
from tests.dump import difference, dump, program
from tests.kernel.lan import UDHCPC, Guest, plugged
from tests.kernel.test_net_commands import link
from tests.world import World, machine, until

VICTIM = "tests.crash.victim:run"
ALICE, BOB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
LAB = """
[lab]
name = "nets"
[network.lab]
mode = "nat"
address = ["192.168.50.1/24"]
dhcp = { range = ["192.168.50.100", "192.168.50.109"] }
dns = { domain = "lab.test" }
forward = ["tcp::8080:192.168.50.9:80"]
"""
OTHER = """
[lab]
name = "nets"
[network.lab]
mode = "nat"
address = ["192.168.60.1/24", "fd60::1/64"]
dhcp = { range = ["192.168.60.100", "192.168.60.109"], lease = "30m" }
dns = { domain = "other.test", hosts = { db = "192.168.60.20" } }
hosts = [{ mac = "52:54:00:00:00:0a", ip = "192.168.60.9" }]
forward = ["tcp::8080:192.168.60.9:80", "udp:127.0.0.1:53:192.168.60.9:53"]
mtu = 9000
"""


def changes(world: World, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(world.succeeds("apply", "--json", *words))
    return found


def said(rows: list[dict[str, Any]]) -> list[str]:
    return [row["what"].partition(":")[0] for row in rows if row["vm"] is None and not row["note"]]


def addresses(name: str) -> list[str]:
    return [one["local"] for one in link(name)["addr_info"] if one["scope"] == "global"]


def as_it_is() -> dict[str, list[str]]:
    """All of the host but the numbers of processes and files of ours."""
    found = {key: lines for key, lines in dump().items() if key not in ("processes", "descriptors")}
    late = ("ff00::/8", "anycast")  # come with the carrier, like that mark: up to a second later
    routes = (line.replace('"linkdown"', "") for line in found["routes"] if not any(one in line for one in late))
    return {**found, "routes": sorted(routes)}


def test_everything_that_can_change_does(world: World) -> None:
    """Guests hear of it when they ask again; done once more there is nothing to do; nothing is left at the end."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice, plugged(world.folder, "b", BOB, "qn-lab") as bob:
        assert alice.lease()["ip"].startswith("192.168.50.")
        world.write(OTHER)
        rows = changes(world, file)
        assert said(rows) == ["address", "mtu", "forward", "dhcp", "dhcp for IPv6", "dns", "hosts"]
        assert all(row["done"] and row["disruption"] == "live" for row in rows if not row["note"])
        assert "outside of what is given out now: 192.168.50." in rows[-2]["what"]
        assert addresses("qn-lab") == ["192.168.50.1", "192.168.60.1", "fd60::1"]
        lent = bob.lease("-O", "mtu")
        assert lent["ip"].startswith("192.168.60.10")
        assert (lent["mtu"], lent["domain"], lent["lease"]) == ("9000", "other.test", "1800")
        assert alice.lease()["ip"] == "192.168.60.9"
        assert bob.address("db.other.test", "192.168.60.1") == "192.168.60.20"
    assert link("qn-lab")["mtu"] == 9000
    assert said(changes(world, file)) == ["old address"]
    assert addresses("qn-lab") == ["192.168.60.1", "fd60::1"]
    rules = program("nft", "list", "ruleset")
    assert "192.168.60.9" in rules
    assert "192.168.50." not in rules
    assert changes(world, file) == []
    assert changes(world, "--dry-run", file) == []
    assert "192.168.60.1/24" in world.succeeds("net", "show", "lab")
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_and_back_again(world: World) -> None:
    """IPv6 goes from the host's side as it came, names and addresses are not served any more."""
    file = world.write(OTHER.replace("mtu = 9000", ""))
    world.succeeds("net", "up", file)
    before = as_it_is()
    for text in (LAB.replace('dns = { domain = "lab.test" }', "dns = false").replace("dhcp = {", "#"), LAB, OTHER):
        world.write(text.replace("mtu = 9000", ""))
        assert changes(world, file)
    assert not difference(before, as_it_is())
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice:
        assert alice.lease()["ip"] == "192.168.60.9"
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_dry_run_only_tells(world: World) -> None:
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    world.write(OTHER)
    before = as_it_is()
    rows = changes(world, "--dry-run", file)
    assert len(said(rows)) == 7
    assert not any(row["done"] for row in rows)
    assert not difference(before, as_it_is())
    world.succeeds("net", "down", "lab")


def test_an_uplink_that_is_another_one_is_let_through(world: World) -> None:
    """Forwarding is switched on where it is wanted, and off where it is not any more."""
    for name in ("up1", "up2"):
        subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer"], check=True)
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    subprocess.run(["ip", "address", "add", "203.0.113.1/24", "dev", "up1"], check=True)
    subprocess.run(["ip", "address", "add", "198.51.100.1/24", "dev", "up2"], check=True)
    world.mark()
    forwarding = {name: Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding") for name in ("up1", "up2")}
    was = forwarding["up1"].read_text()
    if was == "1\n":
        pytest.skip("this kernel forwards on every new interface")
    file = world.write(LAB + 'uplink = "up1"\n')
    world.succeeds("net", "up", file)
    assert [one.read_text() for one in forwarding.values()] == ["1\n", was]
    world.write(LAB + 'uplink = "up2"\n')
    assert said(changes(world, file)) == ["uplink"]
    assert [one.read_text() for one in forwarding.values()] == [was, "1\n"]
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_what_takes_the_network_down_is_said_and_not_done(world: World) -> None:
    """Nothing else is done about it either; a smaller MTU and another MAC alone leave the rest to be done."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    before = as_it_is()
    for old, new, key in (
        ('mode = "nat"', 'mode = "routed"', "mode"),
        ('mode = "nat"', 'mode = "nat"\nhost = "veth"', "host"),
        ('mode = "nat"', 'mode = "nat"\nbridge = "br7"', "bridge"),
        ('mode = "nat"', 'mode = "nat"\nmtu = 1400', "mtu"),
        ('mode = "nat"', 'mode = "nat"\nmac = "52:54:00:00:00:77"', "mac"),
    ):
        world.write(LAB.replace(old, new))
        (row,) = changes(world, file)
        assert (row["what"].partition(":")[0], row["disruption"], row["done"]) == (key, "restart", False)
    assert not difference(before, as_it_is())
    world.write(LAB.replace('mode = "nat"', 'mode = "nat"\nmtu = 1400').replace("8080", "8081"))
    assert [(row["disruption"], row["done"]) for row in changes(world, file)] == [("live", True), ("restart", False)]
    assert [row["disruption"] for row in changes(world, file)] == ["restart"]
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_what_cannot_be_is_refused_before_anything_is_done(world: World) -> None:
    """A subnet that somebody uses, and a port."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    subprocess.run(["ip", "address", "add", "192.168.60.77/24", "dev", "lo"], check=True)
    before = as_it_is()
    world.write(OTHER)
    assert "192.168.60.0/24 is in use" in world.fails(6, "apply", file)
    assert not difference(before, as_it_is())
    world.succeeds("net", "down", "lab")
    subprocess.run(["ip", "address", "del", "192.168.60.77/24", "dev", "lo"], check=True)


def test_guests_on_it_go_on_and_their_cards_fit(world: World) -> None:
    """Their taps take larger packets, what they are to have is reserved, and they stay as they are otherwise."""
    vm = machine("kali", card=f'network = "lab"\nmac = "{BOB}"\nip = ["192.168.60.33/24"]', rests=False)
    file = world.write(LAB.replace("192.168.50.1/24", '192.168.50.1/24", "192.168.60.2/24') + vm)
    other = world.write(f'[lab]\nname = "elsewhere"\n{machine("eve")}[network.lab]\nexternal = true\n', "eve.toml")
    world.succeeds("run", "-d", file)
    world.succeeds("run", "-d", other)
    pid = world.pid("kali")
    world.write(OTHER + vm)
    rows = changes(world, file)
    notes = [row["what"] for row in rows if row.get("note")]
    assert notes[0] == "it is also used by eve of the lab elsewhere"
    assert notes[-1].startswith("eve.net0, kali.net0: packets of up to 9000")
    assert {row["vm"] for row in rows} == {None}
    assert [link(name)["mtu"] for name in ("qn-kali-net0", "qn-eve-net0", "qn-lab")] == [9000] * 3
    assert changes(world, file) == []
    with plugged(world.folder, "b", BOB, "qn-lab") as bob:
        assert bob.lease()["ip"] == "192.168.60.33"
    assert world.pid("kali") == pid
    world.fails(5, "nic", "add", "kali", "--network", "lab")  # it is there, and has no driver
    assert link("qn-kali-net1")["mtu"] == 9000
    world.succeeds("stop", "--force", "kali", "eve")
    assert not world.left()


def test_forwards_follow_a_card_whose_address_is_another_one(world: World) -> None:
    vm = machine("kali", card='network = "lab"\nip = ["192.168.50.9/24"]')
    file = world.write(LAB.replace("tcp::8080:192.168.50.9:80", "tcp::8080:kali:80") + vm)
    world.succeeds("run", "-d", file)
    assert "192.168.50.9" in program("nft", "list", "ruleset")
    world.succeeds("nic", "set", "kali", "net0", "--ip", "192.168.50.44/24")
    rules = program("nft", "list", "ruleset")
    assert "192.168.50.44" in rules
    assert "192.168.50.9" not in rules
    assert said(changes(world, "--dry-run", file)) == ["forward"]
    world.succeeds("stop", "--force", "kali")
    assert not world.left()


def test_forwards_go_with_a_card_to_another_network_and_come_back_with_it(world: World) -> None:
    """They leave the network that it has left, and another card's stay; where its file has some to it, they come."""
    red = '[network.red]\nmode = "nat"\naddress = ["192.168.60.1/24"]\n'
    kali = machine("kali", card='network = "lab"\nip = ["192.168.50.9/24"]')
    eve = machine("eve", card='network = "lab"\nip = ["192.168.50.8/24"]')
    lab = LAB.replace('"tcp::8080:192.168.50.9:80"', '"tcp::8080:kali:80", "udp::5353:kali:53", "tcp::8081:eve:80"')
    file = world.write(lab + red + kali + eve)
    world.succeeds("net", "up", file)
    world.succeeds("run", "-d", file)
    before = forwards()
    assert sorted(before) == ["tcp 8080 192.168.50.9", "tcp 8081 192.168.50.8", "udp 5353 192.168.50.9"]
    world.succeeds("nic", "set", "kali", "net0", "--network", "red", "--ip", "192.168.60.9/24")
    assert forwards() == ["tcp 8081 192.168.50.8"]
    world.succeeds("nic", "set", "kali", "net0", "--network", "lab", "--ip", "192.168.50.7/24")
    assert sorted(forwards()) == [line.replace("50.9", "50.7") for line in sorted(before)]
    world.succeeds("nic", "set", "kali", "net0", "--ip", "192.168.50.9/24")
    assert sorted(forwards()) == sorted(before)
    assert said(changes(world, "--dry-run", file)) == []
    Path(file).unlink()  # nobody knows any more what it had
    world.succeeds("nic", "set", "kali", "net0", "--network", "red", "--ip", "192.168.60.9/24")
    world.succeeds("nic", "set", "kali", "net0", "--network", "lab", "--ip", "192.168.50.9/24")
    assert forwards() == ["tcp 8081 192.168.50.8"]
    world.succeeds("stop", "--force", "kali", "eve")
    world.succeeds("net", "down", "lab", "red")
    assert not world.left()


def forwards() -> list[str]:
    """Which ports lead where for those who come from elsewhere."""
    chains = re.findall(r"chain prerouting \{.*?\}", program("nft", "list", "ruleset"), re.DOTALL)
    found = re.findall(r"(tcp|udp) dport (\d+) dnat ip to ([0-9.]+)", "".join(chains))
    return [" ".join(one) for one in found]


# ---------------------------------------------------------------- whatever happens


def victim(
    world: World, number: int, fault: str, *words: str, phase: str = "apply"
) -> tuple[subprocess.CompletedProcess[str], int]:
    """Apply the file with a fault at one step; return how it ended, and how many steps there were."""
    count = world.folder / "count"
    count.unlink(missing_ok=True)
    done = forked.run(["victim", str(count), phase, str(number), fault, *words], world.environment, 60, VICTIM)
    return done, len(count.read_text().splitlines()) if count.exists() else 0


@pytest.mark.parametrize("faults", [("fail", "int"), ("kill-before", "kill-after")])
def test_a_change_is_all_or_nothing_whatever_happens_at_whichever_step(world: World, faults: tuple[str, str]) -> None:
    """Who is killed leaves it to the next command. What comes after it was made final does not lead back."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    before = as_it_is()
    world.write(OTHER, "other.toml")
    other = str(world.folder / "other.toml")
    _, steps = victim(world, 0, "none", other)
    assert {*(world.folder / "count").read_text().split()} >= covered.APPLY
    world.succeeds("net", "down", "lab")
    world.succeeds("net", "up", file)
    for number in range(1, steps + 1):
        fault = faults[number % 2]
        done, _ = victim(world, number, fault, other)
        is_last = number == steps  # all is final, but what was set for the change alone
        late = fault == "int" and number >= steps - 1  # nobody looks any more whether there was a ^C
        assert is_last or late or done.returncode == {"fail": 1, "int": 130}.get(fault, -signal.SIGKILL), done.stderr
        if late and done.returncode == 0:
            break
        if is_last or fault.startswith("kill"):
            world.succeeds("net", "up", "lab")
        found = difference(before, as_it_is())
        assert bool(found) == is_last, f"{fault} at {number} of {steps}: {found}"
    assert addresses("qn-lab") == ["192.168.60.1", "fd60::1"]
    assert Path("/proc/sys/net/ipv4/conf/qn-lab/promote_secondaries").read_text() == "0\n"
    world.succeeds("net", "down", "lab")
    assert not world.left()


# ---------------------------------------------------------------- guests with addresses of before


MOVED = LAB.replace("192.168.50.", "192.168.60.")
HERE, THERE = "203.0.113.1", "203.0.113.2"  # the host, and somebody behind it


@contextlib.contextmanager
def outside(world: World) -> Iterator[Guest]:
    """Somebody whom guests reach through the host."""
    subprocess.run(["ip", "link", "add", "br-out", "type", "bridge"], check=True)
    Path("/proc/sys/net/ipv6/conf/br-out/disable_ipv6").write_text("1")
    subprocess.run(["ip", "address", "add", f"{HERE}/24", "dev", "br-out"], check=True)
    subprocess.run(["ip", "link", "set", "br-out", "up"], check=True)
    with plugged(world.folder, "out", "52:54:00:00:00:0c", "br-out") as out:
        out.run("ip", "address", "add", f"{THERE}/24", "dev", "eth0", check=True)
        yield out
    subprocess.run(["ip", "link", "del", "br-out"], check=True)


@contextlib.contextmanager
def client(guest: Guest) -> Iterator[Callable[[], dict[str, str]]]:
    """A DHCP client that stays; gives what it was told last. SIGUSR1 makes it ask for what it has once more."""
    out, script = guest.folder / "client.lease", guest.folder / "client.sh"
    script.write_text(UDHCPC.replace('env >"$OUT"', 'env >"$OUT.new"; mv "$OUT.new" "$OUT"') + CLIENT)
    script.chmod(0o755)
    enter = ["nsenter", "--net", "--mount", "--target", str(guest.holder.pid)]
    argv = [*enter, "busybox", "udhcpc", "-i", "eth0", "-f", "-t", "30", "-T", "1", "-A", "1", "-s", str(script)]
    with (
        open(guest.folder / "client.log", "w") as log,
        subprocess.Popen(argv, env={**os.environ, "OUT": str(out)}, stdout=log, stderr=log) as process,
    ):

        def told() -> dict[str, str]:
            pairs = (line.partition("=") for line in out.read_text().splitlines()) if out.exists() else ()
            return {key: value for key, _, value in pairs}

        try:
            until(lambda: "ip" in told(), "an address")
            guest.pid = process.pid  # type: ignore[attr-defined]
            yield told
        finally:
            process.kill()


CLIENT = 'ip route replace default via "$router"\n'


def reaches(guest: Guest, address: str) -> bool:
    return guest.run("busybox", "ping", "-c1", "-W1", address).returncode == 0


def old(world: World) -> list[str]:
    (found,) = json.loads(world.succeeds("net", "list", "--json"))
    return [one["address"] for one in found["old_addresses"]]


def test_a_guest_has_its_way_out_until_it_asks_again(world: World) -> None:
    """Its old gateway stays, with what gets it out; it says no when the guest wants its address for longer, and the
    guest has one of the new range. Then the old one goes, with the rules for it."""
    with outside(world), contextlib.ExitStack() as stack:
        file = world.write(LAB)
        world.succeeds("net", "up", file)
        alice = stack.enter_context(plugged(world.folder, "a", ALICE, "qn-lab"))
        told = stack.enter_context(client(alice))
        until(lambda: reaches(alice, THERE), "the way out")
        world.write(MOVED)
        rows = changes(world, file)
        assert "its address 192.168.50.1/24 stays until " in rows[-1]["what"]
        assert told()["ip"].startswith("192.168.50.")
        assert addresses("qn-lab") == ["192.168.50.1", "192.168.60.1"]
        until(lambda: reaches(alice, THERE), "the way out by the old gateway")
        assert (old(world), changes(world, file)) == (["192.168.50.1/24"], [])
        assert "192.168.50.1/24 until " in world.succeeds("net", "list")
        assert "192.168.50.1/24 until " in world.succeeds("net", "show", "lab")
        assert world.succeeds("gc") == ""
        os.kill(alice.pid, signal.SIGUSR1)  # type: ignore[attr-defined]
        until(lambda: told()["ip"].startswith("192.168.60."), "an address of the new range")
        until(lambda: reaches(alice, THERE), "the way out by the new gateway")
        assert "192.168.50.1/24" in world.succeeds("gc", "--dry-run")
        assert addresses("qn-lab") == ["192.168.50.1", "192.168.60.1"]
        assert "192.168.50.1/24" in world.succeeds("gc")
        assert (addresses("qn-lab"), old(world)) == (["192.168.60.1"], [])
        assert "192.168.50." not in program("nft", "list", "ruleset")
        assert reaches(alice, THERE)
        world.succeeds("net", "down", "lab")
    assert not world.left()


def test_the_keeper_takes_an_old_address_when_nobody_needs_it(world: World) -> None:
    """Nobody has to call anything, and the guests are none the wiser; who listens hears of it."""
    file = world.write(LAB + machine("kali"))
    world.succeeds("run", "-d", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice:
        assert alice.lease()["ip"].startswith("192.168.50.")
        world.write(MOVED + machine("kali"))
        changes(world, file)
        assert addresses("qn-lab") == ["192.168.50.1", "192.168.60.1"]
        assert "192.168.50.1/24" in world.succeeds("status", "kali")
        assert alice.lease()["ip"].startswith("192.168.60.")
        until(lambda: addresses("qn-lab") == ["192.168.60.1"], "the old address is gone")
        until(lambda: old(world) == [], "nobody speaks of it any more")
    world.succeeds("stop", "--force", "kali")
    assert not world.left()


def test_an_old_address_of_a_lease_that_is_over_goes(world: World) -> None:
    """Whoever had it may not be there any more, and whoever comes to the network next sees to it."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice:
        alice.lease()
    world.write(MOVED)
    changes(world, file)
    (scope,) = world.runtime.glob("net/lab")
    (scope / "leaving").write_text("192.168.50.1/24 1000\n")
    assert said(changes(world, "--dry-run", file)) == ["old address"]
    world.succeeds("run", "-d", world.write(MOVED + machine("kali")))
    until(lambda: addresses("qn-lab") == ["192.168.60.1"], "the old address is gone")
    world.succeeds("stop", "--force", "kali")
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_who_goes_back_is_where_he_was(world: World) -> None:
    """What stays of the change that is taken back is there for those who have addresses by it."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice, plugged(world.folder, "b", BOB, "qn-lab") as bob:
        alice.lease()
        world.write(MOVED)
        changes(world, file)
        bob.lease()
        world.write(LAB)
        changes(world, file)
        assert old(world) == ["192.168.60.1/24"]
        assert sorted(addresses("qn-lab")) == ["192.168.50.1", "192.168.60.1"]
        alice.lease()
        assert bob.lease()["ip"].startswith("192.168.50.")
        world.succeeds("gc")
    assert addresses("qn-lab") == ["192.168.50.1"]
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_bridge_that_is_made_again_has_its_old_address_too(world: World) -> None:
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice:
        alice.lease()
    world.write(MOVED)
    changes(world, file)
    subprocess.run(["ip", "link", "del", "qn-lab"], check=True)
    world.succeeds("net", "up", "lab")
    assert sorted(addresses("qn-lab")) == ["192.168.50.1", "192.168.60.1"]
    world.succeeds("net", "down", "lab")
    assert not world.left()


@pytest.mark.parametrize("fault", ["fail", "kill-before", "kill-after"])
def test_an_old_address_goes_whatever_happens_at_whichever_step(world: World, fault: str) -> None:
    """It is there with all that belongs to it, or gone with that; the next gc does what is left."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    with plugged(world.folder, "a", ALICE, "qn-lab") as alice:
        alice.lease()
        world.write(MOVED)
        changes(world, file)
        alice.lease()
    for number in range(1, 30):
        done, _ = victim(world, number, fault, phase="gc")
        rules = "192.168.50." in program("nft", "list", "ruleset")
        if done.returncode == 0:
            break
        assert done.returncode == {"fail": 1}.get(fault, -signal.SIGKILL), done.stderr
        if fault == "fail":
            assert rules == ("192.168.50.1" in addresses("qn-lab")), f"{fault} at {number}"
    assert number > 2
    world.succeeds("gc")
    assert addresses("qn-lab") == ["192.168.60.1"]
    assert "192.168.50." not in program("nft", "list", "ruleset")
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_gc_finishes_a_change_of_a_network_that_nobody_is_on(world: World) -> None:
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    before = as_it_is()
    world.write(OTHER, "other.toml")
    other = str(world.folder / "other.toml")
    done, _ = victim(world, 4, "kill-after", other)
    assert done.returncode == -signal.SIGKILL
    assert difference(before, as_it_is())
    assert "network lab" in world.succeeds("gc", "--dry-run")
    assert difference(before, as_it_is())
    assert "network lab" in world.succeeds("gc")
    assert not difference(before, as_it_is())
    world.succeeds("net", "down", "lab")
    assert not world.left()
