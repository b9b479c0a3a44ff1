"""Networks without vms: brought up, held, shared and taken down, and all of it taken back whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.kernel.conftest import ip
from tests.world import NETWORK, World, kill, machine

VICTIM = "tests.crash.victim:run"
TWO = """
[lab]
name = "nets"
[network.quiet]
mode = "private"
[network.hosted]
mode = "isolated"
address = ["10.9.9.1/24", "fd09::1/64"]
dhcp = true
"""
EXTERNAL = "[network.lab]\nexternal = true\n"


def link(name: str) -> dict[str, Any]:
    """What the kernel says of an interface; nothing if it is not there."""
    done = subprocess.run(["ip", "-j", "-d", "address", "show", "dev", name], capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return next(filter(None, found), {})


def up(world: World) -> list[str]:
    return [network["name"] for network in json.loads(world.succeeds("net", "list", "--json"))]


# ---------------------------------------------------------------- up and down


def test_networks_of_a_file_are_up_without_any_vm_until_they_are_taken_down(world: World) -> None:
    file = world.write(TWO)
    said = json.loads(world.succeeds("net", "up", file, "--json"))
    assert [(one["name"], one["bridge"], one["state"], one["held"]) for one in said] == [
        ("hosted", "qn-hosted", "up", True),
        ("quiet", "qn-quiet", "up", True),
    ]
    addresses = [one["local"] for one in link("qn-hosted")["addr_info"] if one["scope"] == "global"]
    assert sorted(addresses) == ["10.9.9.1", "fd09::1"]
    world.succeeds("gc")
    assert up(world) == ["hosted", "quiet"]
    world.succeeds("net", "down", file)
    assert not world.left()


def test_a_second_time_changes_nothing(world: World) -> None:
    file = world.write(TWO)
    world.succeeds("net", "up", file)
    before = link("qn-quiet")["ifindex"]
    world.succeeds("net", "up", file)
    world.succeeds("net", "up", "quiet")
    assert link("qn-quiet")["ifindex"] == before
    world.succeeds("net", "down", "quiet", "hosted")


def test_only_the_networks_that_are_named_come_up(world: World) -> None:
    file = world.write(TWO)
    world.succeeds("net", "up", file, "quiet")
    assert up(world) == ["quiet"]
    assert "it has: quiet, hosted" in world.fails(4, "net", "up", file, "nix")
    world.succeeds("net", "down", file)


def test_what_a_vm_lacks_is_nothing_to_its_network(world: World) -> None:
    """Its disk is not there, its kernel neither, and it is not to be started."""
    vm = '[vm.one]\nboot.kernel = "/nowhere"\n[[vm.one.disk]]\nfile = "gone.qcow2"\n[[vm.one.nic]]\nnetwork = "lab"\n'
    world.succeeds("net", "up", world.write(NETWORK + vm))
    world.succeeds("net", "down", "lab")


def test_a_file_that_is_gone_still_takes_its_networks_down(world: World) -> None:
    file = world.write(TWO)
    world.succeeds("net", "up", file)
    Path(file).unlink()
    world.succeeds("net", "down", file)
    assert not world.left()


def test_an_existing_bridge_needs_no_bringing_up(world: World) -> None:
    ip("link", "add", "br9", "type", "bridge")
    world.mark()
    file = world.write('[network.lan]\nmode = "bridge"\nbridge = "br9"\n')
    assert "it is used as it is" in world.qemunet("net", "up", file).stderr
    assert world.succeeds("net", "up", file, "--json") == "[]\n"
    assert not world.left()


def test_what_is_not_up_cannot_be_held_or_taken_down(world: World) -> None:
    file = world.write(TWO)
    for words in (["up", "quiet"], ["down", "quiet"], ["down", file]):
        world.fails(4, "net", *words)
    assert not world.left()


def test_a_start_that_fails_half_way_takes_back_what_it_made(world: World) -> None:
    """The second bridge's name is somebody's."""
    ip("link", "add", "qn-quiet", "type", "bridge")
    world.mark()
    said = world.fails(6, "net", "up", world.write(TWO))
    assert "qn-quiet is a bridge already" in said
    assert not world.left()


def test_an_error_as_json_has_the_shape_of_all(world: World) -> None:
    error = json.loads(world.fails(4, "net", "down", "nix", "--json"))["error"]
    assert (error["kind"], set(error)) == ("not-found", {"kind", "message", "where", "hint"})


# ---------------------------------------------------------------- with guests


def test_a_network_that_is_let_go_of_goes_with_its_last_guest(world: World) -> None:
    """Who is on it is said; when only they keep it, nobody takes it down."""
    file = world.write(NETWORK + machine("one") + machine("two"))
    world.succeeds("net", "up", file)
    world.succeeds("run", "-d", file)
    done = world.qemunet("net", "down", "lab")
    assert (done.returncode, done.stderr) == (0, "lab: goes with its last guest; on it: one, two\n")
    said = world.fails(6, "net", "down", "lab")
    assert "one, two are on it" in said
    assert "`qemunet stop one two`" in said
    world.succeeds("stop", "--force", "one", "two")
    assert not world.left()


def test_a_held_network_that_lost_its_bridge_or_its_server_has_both_again(world: World) -> None:
    """The bridge when a guest comes, or by `net up`; the server, which nobody watches without a guest, by `net up`."""
    text = '[network.lab]\nmode = "isolated"\naddress = ["10.9.9.1/24"]\ndhcp = true\n'
    file = world.write(text + machine("one"))
    world.succeeds("net", "up", file)
    server = world.runtime / "net" / "lab" / "dnsmasq.pid"
    ip("link", "del", "qn-lab")
    kill(int(server.read_text()))
    world.succeeds("run", "-d", file)
    assert link("qn-one-net0")["master"] == "qn-lab"
    assert [one["local"] for one in link("qn-lab")["addr_info"] if one["family"] == "inet"] == ["10.9.9.1"]
    world.succeeds("stop", "--force", "one")
    kill(int(server.read_text()))
    assert "no dhcp, held" in world.succeeds("net", "list")
    world.succeeds("net", "up", "lab")
    assert json.loads(world.succeeds("net", "list", "--json"))[0]["dhcp"] == "running"
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_held_network_outlives_its_last_guest(world: World) -> None:
    """Until it is let go of."""
    file = world.write(NETWORK + machine("one") + machine("two"))
    world.succeeds("net", "up", file)
    before = link("qn-lab")["ifindex"]
    assert "up, held" in world.succeeds("net", "list")
    world.succeeds("run", "-d", file)
    world.succeeds("stop", "--force", "one", "two")
    assert link("qn-lab")["ifindex"] == before
    world.succeeds("net", "down", file)
    assert not world.left()


def test_a_network_that_guests_brought_up_can_be_held(world: World) -> None:
    world.succeeds("run", "-d", world.write(NETWORK + machine("one")))
    world.succeeds("net", "up", "lab")
    world.succeeds("stop", "--force", "one")
    assert up(world) == ["lab"]
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_network_that_is_kept_stays_until_it_is_taken_down(world: World) -> None:
    file = world.write(f"{NETWORK}keep = true\n" + machine("one"))
    world.succeeds("run", "-d", file)
    world.succeeds("stop", "--force", "one")
    world.succeeds("gc")
    (network,) = json.loads(world.succeeds("net", "list", "--json"))
    assert (network["name"], network["mode"], network["keep"], network["held"]) == ("lab", "private", True, False)
    world.succeeds("run", "-d", file)
    world.succeeds("stop", "--force", "one")
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_net_show_prints_what_a_network_is_and_who_is_on_it(world: World) -> None:
    file = world.write(NETWORK + machine("one", card='network = "lab"\nip = ["10.0.0.2/24"]'))
    world.succeeds("run", "-d", file)
    said = world.succeeds("net", "show", "lab")
    assert "[network.lab]" in said
    assert "qn-one-net0" in said
    shown = json.loads(world.succeeds("net", "show", "lab", "--json"))
    (card,) = shown["cards"]
    assert (card["vm"], card["nic"], card["ifname"], card["ips"]) == ("one", "net0", "qn-one-net0", ["10.0.0.2/24"])
    assert shown["guests"] == ["one"]
    world.succeeds("stop", "--force", "one")


# ---------------------------------------------------------------- of another lab


def test_a_network_of_another_lab_has_to_be_up_first(world: World) -> None:
    file = world.write(EXTERNAL + machine("two"), "user.toml")
    for words in (["run", "-d", file], ["net", "up", file, "lab"]):
        said = world.fails(4, *words)
        assert 'network "lab" is not up' in said
        assert "qemunet net up FILE lab" in said
    assert "add bridge" not in world.succeeds("plan", file)
    assert not world.left()


def test_a_network_of_another_lab_goes_with_the_last_who_uses_it(world: World) -> None:
    """Whoever declares it has stopped; whoever only uses it goes on."""
    world.succeeds("run", "-d", world.write(f"{NETWORK}mtu = 1400\n" + machine("one"), "maker.toml"))
    world.succeeds("run", "-d", world.write(EXTERNAL + machine("two"), "user.toml"))
    assert (link("qn-two-net0")["master"], link("qn-two-net0")["mtu"]) == ("qn-lab", 1400)
    assert json.loads(world.succeeds("net", "show", "lab", "--json"))["external"] is True
    world.succeeds("stop", "--force", "one")
    assert link("qn-lab")
    world.succeeds("stop", "--force", "two")
    assert not world.left()


def test_a_card_can_be_moved_to_a_network_that_is_held(world: World) -> None:
    world.succeeds("net", "up", world.write(TWO, "nets.toml"))
    world.succeeds("run", "-d", world.write(NETWORK + machine("one"), "lab.toml"))
    world.succeeds("nic", "set", "one", "net0", "--network", "quiet", "--timeout", "0s")
    assert link("qn-one-net0")["master"] == "qn-quiet"
    assert up(world) == ["hosted", "quiet"], "the last has left the other"
    world.succeeds("net", "down", "quiet", "hosted")
    assert up(world) == ["quiet"]
    world.succeeds("stop", "--force", "one")
    assert not world.left()


# ---------------------------------------------------------------- whatever happens meanwhile


def victim(world: World, number: int, fault: str, *words: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run ``qemunet net`` with a fault at one step; return how it ended and how many steps there were."""
    count = world.folder / "count"
    count.unlink(missing_ok=True)
    done = forked.run(["victim", str(count), "net", str(number), fault, *words], world.environment, 60, VICTIM)
    assert "Traceback" not in done.stderr, done.stderr
    return done, len(count.read_text().splitlines()) if count.exists() else 0


def steps_of_up(world: World, file: str) -> int:
    done, count = victim(world, 0, "none", "up", file)
    assert done.returncode == 0, done.stderr
    world.succeeds("net", "down", file)
    assert count > 5
    return count


@pytest.mark.parametrize(("fault", "status"), [("fail", 1), ("int", 130), ("int2", 130)])
def test_net_up_that_fails_or_is_interrupted_takes_everything_back_itself(
    world: World, fault: str, status: int
) -> None:
    file = world.write(TWO)
    for number in range(1, steps_of_up(world, file) + 1):
        done, _ = victim(world, number, fault, "up", file)
        assert (done.returncode, world.left()) == (status, ""), f"{fault} at step {number}: {done.stderr}"


@pytest.mark.parametrize("fault", ["kill-before", "kill-after"])
def test_what_a_killed_net_up_left_is_taken_back_by_gc_or_made_by_the_next(world: World, fault: str) -> None:
    file = world.write(TWO)
    for number in range(1, steps_of_up(world, file) + 1):
        done, _ = victim(world, number, fault, "up", file)
        assert done.returncode == -signal.SIGKILL
        if number % 2:
            world.succeeds("net", "up", file)
            assert up(world) == ["hosted", "quiet"]
            world.succeeds("net", "down", file)
        else:
            world.succeeds("gc")
        assert not world.left(), f"{fault} at step {number}"


@pytest.mark.parametrize("fault", ["kill-before", "kill-after", "fail"])
def test_a_net_down_that_is_killed_or_fails_is_finished_by_gc(world: World, fault: str) -> None:
    file = world.write(TWO)
    world.succeeds("net", "up", file)
    _, count = victim(world, 0, "none", "down", file)
    for number in range(1, count + 1):
        world.succeeds("net", "up", file)
        victim(world, number, fault, "down", file)
        world.succeeds("gc")
        assert not world.left(), f"{fault} at undo {number}"


def test_networks_of_one_command_are_held_all_at_once(world: World) -> None:
    """Killed just before that: the marks are there, with nothing in them, and hold nobody."""
    file = world.write(TWO)
    world.succeeds("net", "up", file)
    marks = [world.runtime / "net" / name / "held" for name in ("hosted", "quiet")]
    assert marks[0].samefile(marks[1])
    marks[0].write_text("")
    assert [one["held"] for one in json.loads(world.succeeds("net", "list", "--json"))] == [False, False]
    world.succeeds("gc")
    assert not world.left()


def test_a_lab_starts_where_somebody_was_killed_while_he_made_its_network(world: World) -> None:
    """Without `gc`: what was half made goes first."""
    file = world.write(NETWORK + machine("one"))
    for number in (1, 2, 3):
        victim(world, number, "kill-after", "up", file)
        world.succeeds("run", "-d", file)
        world.succeeds("stop", "--force", "one")
        assert not world.left()
