"""`events` tells what QEMU, the guest and the host do to a guest that runs, in the order in which it happens."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.scene import QEMUNET, Scene, ip
from tests.world import NETWORK, machine

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64"),
]

PATIENCE = 60.0  # seconds
LAB = '[lab]\nname = "shop"\n' + NETWORK
TINY = """
[vm.one]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
[[vm.one.nic]]
network = "lab"
"""
BARE = LAB + machine("one")  # nothing but its firmware: it starts at once

Event = dict[str, Any]


class Listener:
    """`qemunet events` in the background, and what it has printed."""

    def __init__(self, scene: Scene, *words: str) -> None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([QEMUNET, "events", *words], env=scene.environment, bufsize=0, **pipes)
        self.heard: list[Event] = []
        self._lines: list[bytes] = []
        self._part = b""

    def until(self, **wanted: object) -> Event:
        """Read up to an event with these values."""
        while True:
            line = self._line()
            assert line, f"no {wanted} came, only {self.heard}"
            self.heard.append(json.loads(line))
            if wanted.items() <= self.heard[-1].items():
                return self.heard[-1]

    def end(self) -> list[Event]:
        """Wait for the end, which is a good one; return what came since the last event that was waited for."""
        lines = list(iter(self._line, b""))
        assert self.process.stderr is not None
        assert (self.process.wait(PATIENCE), self.process.stderr.read()) == (0, b"")
        return [json.loads(line) for line in lines]

    def _line(self) -> bytes:
        """The next line; nothing when there is none in time, or no more."""
        assert self.process.stdout is not None
        while not self._lines:
            ready = select.select([self.process.stdout], [], [], PATIENCE)[0]
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                return b""
            *self._lines, self._part = (self._part + data).split(b"\n")
        return self._lines.pop(0)


@contextlib.contextmanager
def listening(scene: Scene, *words: str) -> Iterator[Listener]:
    listener = Listener(scene, *words)
    with listener.process:
        try:
            yield listener
        finally:
            listener.process.kill()


@contextlib.contextmanager
def running(scene: Scene, text: str) -> Iterator[int]:
    """A guest `one` in the background; gives QEMU's pid."""
    scene.qemunet("run", "-d", str(scene.write(text)))
    try:
        (vm,) = json.loads(scene.qemunet("ps", "--json"))
        yield vm["pid"]
    finally:
        for vm in json.loads(scene.qemunet("ps", "--json")):
            scene.qemunet("stop", "--force", vm["name"])


def words(events: list[Event], *kinds: str) -> list[str]:
    """The events of these kinds, by their words."""
    return [str(event.get("name") or event["what"]) for event in events if event["event"] in kinds]


def test_a_guest_from_its_pause_to_its_power_off(scene: Scene, unchanged: None) -> None:
    """Every event is one line as soon as it happens, and with the guest the command ends."""
    with running(scene, LAB + TINY), listening(scene, "one") as listener:
        guest = scene.guest("one")
        guest.await_ready()
        first = listener.until(event="guest")
        assert (first["what"], first["lab"], first["vm"], first["adopted"]) == ("running", "shop", "one", False)
        assert scene.qemunet("qmp", "one", "stop") == "{}\n"
        assert json.loads(scene.qemunet("qmp", "one", "query-status"))["status"] == "paused"
        stop = listener.until(event="qmp", name="STOP")
        assert stop["data"] == {}
        assert abs(stop["timestamp"]["seconds"] - stop["time"]) < 10
        scene.qemunet("qmp", "one", "cont")
        listener.until(event="qmp", name="RESUME")
        ip("link", "set", "qn-one-net0", "down")
        down = listener.until(event="link")
        assert (down["nic"], down["ifname"], down["what"], down["up"]) == ("net0", "qn-one-net0", "changed", False)
        ip("link", "set", "qn-one-net0", "up")
        assert listener.until(event="link")["changed"] == ["up", "carrier"]
        guest.run("(sleep 0.5; poweroff) >/dev/null 2>&1 &")  # when its shell has answered
        shutdown = listener.until(event="qmp", name="SHUTDOWN")
        assert shutdown["data"] == {"guest": True, "reason": "guest-shutdown"}
        ended = listener.until(event="guest")
        assert (ended["what"], ended["status"], ended["reason"]) == ("ended", 0, "guest-shutdown")
        rest = listener.end()
        assert [event["event"] for event in rest][-1] == "guest"
        assert words(rest, "guest") == ["over"]
        assert words([*listener.heard, *rest], "link")[-1] == "deleted"
        assert rest[-1]["failures"] == []
        guest.close()


def test_a_qemu_that_is_killed_has_its_end_told(scene: Scene, unchanged: None) -> None:
    """Whoever listens to all hears of the lab that came later, too, and goes on."""
    with listening(scene) as everything, running(scene, BARE) as pid, listening(scene, "one") as listener:
        listener.until(event="guest", what="running", pid=pid)
        everything.until(event="guest", vm="one", pid=pid)
        os.kill(pid, signal.SIGKILL)
        ended = listener.until(event="guest", what="ended")
        assert (ended["status"], ended["reason"]) == (-9, "killed")
        assert words(listener.end(), "guest") == ["over"]
        assert words(listener.heard, "qmp") == []
        everything.until(event="guest", vm="one", what="over")
        with running(scene, BARE) as another:
            everything.until(event="guest", vm="one", pid=another)
        everything.until(event="guest", vm="one", what="over")
        assert everything.process.poll() is None


def test_a_guest_that_joins_a_keeper_has_started_in_front_of_everybody(scene: Scene, unchanged: None) -> None:
    two = BARE + machine("two", card='mode = "user"')
    scene.qemunet("run", "-d", str(scene.write(two)), "one")
    with listening(scene) as listener:
        listener.until(event="guest", vm="one", what="running")
        scene.qemunet("run", "-d", str(scene.folder / "lab.toml"), "two")
        listener.until(event="guest", vm="two", what="started")
        scene.qemunet("stop", "--force", "one", "two")
        listener.until(event="guest", what="over")
        listener.until(event="guest", what="over")


def test_a_stream_goes_on_when_the_keeper_was_killed(scene: Scene, unchanged: None) -> None:
    """The gap is marked, and the new keeper's first word is that it adopted the guest."""
    with running(scene, BARE), listening(scene, "one") as listener:
        listener.until(event="guest", what="running", adopted=False)
        os.kill(int((scene.runtime / "lab" / "shop" / "pid").read_text()), signal.SIGKILL)
        listener.until(event="gap", what="keeper")
        listener.until(event="guest", what="running", adopted=True)
        scene.qemunet("stop", "--force", "one")
        ended = listener.until(event="guest", what="ended")
        assert (ended["reason"], ended["status"]) == ("quit", None), "it was not this keeper's child"
        assert words(listener.end(), "guest") == ["over"]


def test_what_qemu_refuses_is_said_in_its_own_words(scene: Scene, unchanged: None) -> None:
    with running(scene, BARE):
        error = scene.qemunet("qmp", "one", "device_del", '{"id": "net7"}', status=1)
        assert "device_del: DeviceNotFound: Device 'net7' not found" in error
        assert "CommandNotFound" in scene.qemunet("qmp", "one", "no-such-thing", status=1)
        listed = json.loads(scene.qemunet("qmp", "one", "query-rx-filter", '{"name": "net0"}'))
        assert listed[0]["name"] == "net0"
    assert "no vm" in scene.qemunet("qmp", "one", "stop", status=4)
    assert "no vm" in scene.qemunet("events", "one", status=4)
