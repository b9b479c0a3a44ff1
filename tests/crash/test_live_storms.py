"""Many who change cards at once: two labs that share a network, and processes that add, move and delete at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from qemunet.live import devices
from tests import dump, namespace
from tests.crash.live import ByKeeper, Live, live_world
from tests.world import finish, machine, until

pytestmark = [pytest.mark.guest]

SHARED = '[network.shared]\nmode = "isolated"\naddress = ["10.9.0.1/24"]\n'
ROUNDS = 4


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    if why := namespace.lack():
        pytest.skip(why)
    with live_world(tmp_path) as live:
        live.world.mark()
        yield live
        found = live.left()
        assert not found, found


# ---------------------------------------------------------------- two labs


def test_two_labs_that_come_to_a_network_and_leave_it_at_once_agree_on_it(live: Live) -> None:
    """Whoever comes first makes it, the last one out takes it down, and nobody's card is ever without it."""
    world = live.world
    for name in ("alpha", "beta"):
        home = f'[network.home-{name}]\nmode = "private"\n'
        text = machine(name, card=f'network = "home-{name}"') + home + SHARED
        world.succeeds("run", "-d", world.write(f'[lab]\nname = "lab-{name}"\n{text}', f"{name}.toml"))
    for number in range(ROUNDS):
        _both(live, "shared", "shared")
        assert _users(live, "shared") == ("alpha", "beta"), number
        assert _masters()["qn-alpha-net0"] == _masters()["qn-beta-net0"] == "qn-shared"
        _both(live, "home-alpha", "shared")  # one stays
        assert _users(live, "shared") == ("beta",)
        _both(live, "shared", "home-beta")  # they change places
        assert _users(live, "shared") == ("alpha",)
        _both(live, "home-alpha", "home-beta")
        assert not live.runtime.scope("net/shared").exists()
        assert "qn-shared" not in str(dump.links())
    world.succeeds("stop", "--force", "alpha", "beta")


def _both(live: Live, alpha: str, beta: str) -> None:
    words = [("nic", "set", name, "net0", "--network", to) for name, to in (("alpha", alpha), ("beta", beta))]
    for done in [finish(one) for one in [live.world.start(*each) for each in words]]:
        assert done.returncode == 0, done.stderr


def _users(live: Live, network: str) -> tuple[str, ...]:
    return live.runtime.scope(f"net/{network}").users()


def _masters() -> dict[str, str | None]:
    return {link["ifname"]: link.get("master") for link in dump.ip("link")}


# ---------------------------------------------------------------- storms

STORM = """
[lab]
name = "live"
[network.first]
mode = "private"
[network.second]
mode = "private"
[network.third]
mode = "isolated"
address = ["10.9.0.1/24"]
"""
GUEST = """
[vm.{0}]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 3
[[vm.{0}.nic]]
network = "first"
"""
PROCESSES, COMMANDS = 5, 10
WORDS = ("--network first", "--network second", "--network third", "--mode user", "--bridge br0")


def test_a_storm_of_changes_ends_in_a_state_that_everybody_agrees_on(live: Live) -> None:
    """Each command ends in time with a status that says why; slots run out, cards are taken, and nothing is left."""
    live.world.succeeds("run", "-d", live.world.write(STORM + GUEST.format("one") + GUEST.format("two")))
    live.await_guests()
    wrong: list[str] = []
    threads = [Thread(target=_storm, args=(live, random.Random(seed), wrong)) for seed in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    for vm in ("one", "two"):
        until(lambda vm=vm: not _disagreements(live, vm), f"all agree on {vm}: {_disagreements(live, vm)}", 15)
    live.world.succeeds("stop", "--force", "one", "two")


def _storm(live: Live, dice: random.Random, wrong: list[str]) -> None:
    for _ in range(COMMANDS):
        vm, nic = dice.choice(("one", "two")), f"net{dice.randrange(4)}"
        words = dice.choice(
            (
                f"nic add {vm} {dice.choice(WORDS)}",
                f"nic add {vm} --id {nic} {dice.choice(WORDS)} --link {dice.choice(('up', 'down'))}",
                f"nic del {vm} {nic}",
                f"nic del {vm} {nic} --cut",
                f"nic set {vm} {nic} --network {dice.choice(('first', 'second', 'third'))}",
                f"nic set {vm} {nic} --link {dice.choice(('up', 'down'))}",
                f"nic set {vm} {nic} {dice.choice(WORDS)}",
            )
        )
        try:
            done = finish(live.world.start(*words.split()))
        except BaseException as error:
            wrong.append(f"{words}: {error!r}")
            return
        if done.returncode not in (0, 2, 4, 6):
            wrong.append(f"{words}: {done.returncode}: {done.stderr}")


def _disagreements(live: Live, vm: str) -> list[str]:
    """What of records, QEMU, host, claims and journal is not the same."""
    record = live.runtime.vm(vm)
    rows = {row.id: row for row in record.nics}
    cards = {card.id: card for card in devices.cards(ByKeeper(live, vm))}
    masters = _masters()
    found = [f"state of {row.id}: {row.state}" for row in rows.values() if row.state != "plugged"]
    found += [f"card {name}" for name in rows.keys() ^ cards.keys()]
    found += [f"slot of {name}" for name in rows.keys() & cards.keys() if rows[name].slot != cards[name].slot]
    found += [f"mac of {name}" for name in rows.keys() & cards.keys() if rows[name].mac != cards[name].mac]
    taps = {row.ifname: row.bridge for row in rows.values() if row.ifname}
    there = {name: master for name, master in masters.items() if name.startswith(f"qn-{vm}-")}
    found += [f"taps {sorted(map(str, taps.items()))}, {sorted(map(str, there.items()))}"] * (taps != there)
    for scope in live.runtime.scopes("net"):
        users = {path.name for path in Path(scope.path("users")).glob(f"{vm}.*")}
        wanted = {f"{vm}.{row.id}" for row in rows.values() if row.network == scope.name.removeprefix("net/")}
        found += [f"users of {scope.name}: {users ^ wanted}"] * (users != wanted)
    macs = {key for key, by in live.runtime.claims().items() if key.startswith("mac/") and by == f"vm/{vm}"}
    found += ["claims"] * (macs != {f"mac/{row.mac}" for row in rows.values()})
    journal = live.runtime.scope(f"vm/{vm}").journal()
    found += [f"overdue: {one.what}" for one in journal.overdue()]
    journal.close()
    return found
