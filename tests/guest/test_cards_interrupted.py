"""Who interrupts a command about a card is told what is so: what was begun is taken back, or stands and is said to."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.guest.cards import Done, Stage, finish, machine, running, until
from tests.guest.scene import Guest

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = '[network.lab]\nmode = "private"\n' + machine("one", "hotplug-slots = 4", "nic = []")
AUTOPROBE = "/sys/bus/virtio/drivers_autoprobe"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running(tmp_path_factory.mktemp("interrupted"), LAB) as stage:
        stage.guest("one")
        stage.add("one", "--network", "lab")  # from then on its kernel has virtio
        stage.remove("one", "net0")
        yield stage


@pytest.fixture
def one(stage: Stage) -> Iterator[Guest]:
    """A guest without any card, which has none afterwards, and neither has the host."""
    before = stage.look()
    yield stage.guest("one")
    stage.is_as(before)
    assert not stage.macs("one")


def interrupted(process: subprocess.Popen[str], times: int = 1) -> Done:
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    return finish(process)


def test_a_card_that_the_guest_does_not_take_goes_when_the_user_gives_up(stage: Stage, one: Guest) -> None:
    """No driver of it takes new cards for now."""
    one.succeeds(f"echo 0 > {AUTOPROBE}")
    adding = stage.begin("nic", "add", "one", "--network", "lab", "--timeout", "60s")
    until(lambda: stage.cards("one"), "it is plugged in")
    done = interrupted(adding)
    one.succeeds(f"echo 1 > {AUTOPROBE}")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: vm.one: interrupted; net0 was taken out again\n"
    assert not stage.cards("one")


def test_a_card_that_is_asked_for_leaves_though_the_user_gives_up(stage: Stage, one: Guest) -> None:
    """The guest stands still, and lets go of it when it runs on."""
    stage.add("one", "--network", "lab")
    stage.qmp("one", "stop")
    removing = stage.begin("nic", "del", "one", "net0")
    until(lambda: stage.cards("one")["net0"]["state"] == "unplugging", "it is asked for")
    done = interrupted(removing)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted; net0 leaves as soon as the guest lets go of it\n")
    with stage.heard("one", event="card", nic="net0", what="unplugged"):
        stage.qmp("one", "cont")


def test_a_card_that_has_to_be_unplugged_for_a_change_comes_back_as_it_was(stage: Stage, one: Guest) -> None:
    before = stage.add("one", "--network", "lab")
    stage.qmp("one", "stop")
    changing = stage.begin("nic", "set", "one", "net0", "--model", "e1000")
    until(lambda: stage.cards("one")["net0"]["state"] == "unplugging", "it is asked for")
    done = interrupted(changing)
    assert (done.returncode, done.stdout) == (130, "")
    stays = "net0 comes back as it was when the guest has let go of it"
    assert done.stderr == f"error: vm.one: interrupted; {stays}\n"
    with stage.heard("one", event="card", nic="net0", what="changed"):
        stage.qmp("one", "cont")
    until(lambda: stage.macs("one") == {before["mac"]}, "the guest has it", 30)
    assert stage.cards("one")["net0"]["model"] == before["model"]
    stage.remove("one", "net0")


def test_who_interrupts_twice_does_not_wait(stage: Stage, one: Guest) -> None:
    """The guest lets go of nothing for now; the card goes when it does."""
    one.succeeds(f"echo 0 > {AUTOPROBE}")
    adding = stage.begin("nic", "add", "one", "--network", "lab", "--timeout", "60s")
    until(lambda: stage.cards("one"), "it is plugged in")
    keeper = stage.keeper()
    subprocess.run(["kill", "-STOP", str(keeper)], check=True)
    try:
        adding.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            adding.wait(1)
        done = interrupted(adding)
    finally:
        subprocess.run(["kill", "-CONT", str(keeper)], check=True)
    assert done.returncode == 130
    assert "interrupted\n  hint: it may be done all the same: `qemunet nic list one`" in done.stderr
    until(lambda: not stage.cards("one"), "it is taken back")
    one.succeeds(f"echo 1 > {AUTOPROBE}")
