"""Live changes among others: who interrupts, has the names already, asks for nonsense, or fills the disk."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from typing import Any

import pytest

from tests.crash.live import Live, differs, until_state
from tests.world import PATIENCE, finish, until

pytestmark = [pytest.mark.guest]

ADD = ("nic", "add", "one", "--network", "second")
OTHERS = {
    "its tap": ["tuntap add dev qn-one-net1 mode tap", "link del qn-one-net1"],
    "its bridge": ["link add qn-second address 02:00:00:00:00:09 type bridge", "link del qn-second"],
    "the mark of its tap": [
        "link property add dev br0 altname qemunet.vm-one.net1",
        "link property del dev br0 altname qemunet.vm-one.net1",
    ],
    "the mark of its bridge": [
        "link property add dev br0 altname qemunet.net-second.bridge",
        "link property del dev br0 altname qemunet.net-second.bridge",
    ],
}


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


# ---------------------------------------------------------------- interrupts


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("what", ["add", "del"])
def test_who_interrupts_a_change_finds_all_of_it_or_nothing(live: Live, what: str, times: int) -> None:
    """^C ends the command with 130, a second one does no harm; the keeper goes on and leaves no half state."""
    card = {"network": "second"}
    before = live.state()
    live.ask("nic-add", vm="one", keys=card, timeout=10)
    after = live.state()
    words = ("nic", "del", "one", "net1")
    if what == "add":
        live.ask("nic-del", vm="one", nic="net1", timeout=10)
        words = ADD
    with live.trap(5, "hold"):
        command = live.world.start(*words)
        until(live.is_held, "the keeper is in the middle of it")
        for _ in range(times):
            command.send_signal(signal.SIGINT)
        done = finish(command)
        live.go_on()
    assert done.returncode == 130, done.stderr
    there, found = until_state(live.state, before, after)
    assert there, found


def test_two_who_cut_off_the_same_card_both_get_an_answer(live: Live) -> None:
    """The second one may find it gone when it is his turn; the keeper goes on."""
    for _ in range(4):
        live.ask("nic-add", vm="one", keys={"network": "second"}, timeout=10)
        commands = [live.world.start("nic", "del", "one", "net1", "--cut") for _ in range(3)]
        done = [finish(one) for one in commands]
        statuses = {one.returncode for one in done}
        assert 0 in statuses
        assert statuses <= {0, 4}, [one.stderr for one in done]
    assert live.ask("ping")["vms"] == ["one"]


# ---------------------------------------------------------------- somebody else's


@pytest.mark.parametrize("what", OTHERS)
def test_what_somebody_else_made_with_the_names_of_a_card_survives_it(live: Live, what: str) -> None:
    """Exit status 6 says so, and nothing has changed."""
    make, remove = OTHERS[what]
    ip(make)
    try:
        before = live.state()
        said = live.world.fails(6, *ADD)
        assert any(word in said for word in ("qn-", "qemunet.")), said
        assert not differs(before, live.state()), differs(before, live.state())
    finally:
        ip(remove)


def test_a_link_of_somebody_else_in_the_group_of_a_vm_survives_its_cards(live: Live) -> None:
    """Cards come and go, several at once, and one that fails half-way."""
    group = next(line for line in live.state()["links"] if line.startswith("qn-one-net0")).split("'group': '")[1]
    ip(f"link add foreign group {group.split(chr(39))[0]} type bridge")
    try:
        before = live.state()
        live.ask("nic-add", vm="one", keys={"network": "second"}, timeout=10)
        live.ask("nic-del", vm="one", nic="net1", timeout=10)
        live.hurt(10, "fail", "nic-add", vm="one", keys={"network": "second"}, timeout=10)
        assert not differs(before, live.state()), differs(before, live.state())
    finally:
        ip("link del foreign")


# ---------------------------------------------------------------- nonsense

HUGE = "x" * 500_000
KEYS: list[Any] = [
    *[None, 5, "network", [], ["network"], True],
    *[{"network": value} for value in (5, [], {}, None, "nope", "", HUGE, "../second", "a\0b", "\ud800")],
    *[{"id": value} for value in (0, [], {}, "", "a/b", "..", HUGE, "net0", "\ud800")],
    *[{"mode": "user", "queues": value} for value in (-1, 0, 10**30, "many", 1.5)],
    *[{"mode": "user", "mac": value} for value in ("nope", 7, "01:00:00:00:00:01", "")],
    *[{"mode": "user", "forward": value} for value in ("tcp", ["tcp:1"], 5, [5], [HUGE])],
    *[{"mode": value} for value in ("nope", 5, None, [])],
    *[{"mode": "macvtap", "parent": value} for value in ("nope", 5, "", HUGE)],
    *[{"bridge": value} for value in ("nope", 5, "", "lo")],
    *[{"network": "second", "ifup": value} for value in ("/nonexistent", 5, "/etc/passwd", "")],
    *[{"network": "second", "ifname": value} for value in ("a" * 16, "a/b", 5, "", "lo", "%d")],
    *[{"unknown": 1}, {"network": "second", "bridge": "br0"}, {"model": "nope", "mode": "user"}],
]
NOTED = [
    *[{"network": {}}, {"id": {}}, {"id": "net0"}],  # of a card that is there they change nothing
    *[{"network": "second", "ifup": value} for value in ("/nonexistent", "/etc/passwd")],  # it has run already
]
WRONG = [
    *[{"do": "nic-add", "vm": "one", "keys": keys} for keys in KEYS],
    *[{"do": "nic-set", "vm": "one", "nic": "net0", "keys": keys} for keys in KEYS if keys not in NOTED],
    *[
        {"do": do, "nic": "net0", "keys": {"link": "up"}, "file": "/nonexistent", **vm}
        for do in ("nic-add", "nic-del", "nic-set", "nics", "capture", "events")
        for vm in ({"vm": value} for value in (5, None, [], {}, "nope", "", "../one", HUGE, "\ud800", "two"))
    ],
    *[
        {"do": do, "vm": "one", "keys": {"link": "up"}, **nic}
        for do in ("nic-del", "nic-set", "capture")
        for nic in (
            {},
            *({"nic": value} for value in (5, None, [], "nope", "", "../net0", HUGE, "card-of-two", "\ud800")),
        )
    ],
    *[
        {"do": do, "vm": "one", "nic": "net0", "keys": {"mode": "user"}, "timeout": value}
        for do in ("nic-add", "nic-del", "nic-set")
        for value in (-1, "1", None, [], 1e300, True, float("nan"))
    ],
    *[{"do": "apply", "file": value} for value in (5, None, [], "", "/nonexistent", "/etc/passwd", HUGE, "/\ud800")],
    *[{"do": "apply", "file": "LAB", "overrides": value} for value in (5, "a", [5], ["nope"], ["vm.one.cpus=x"])],
    *[{"do": value} for value in ("nope", None, 5, [], {}, HUGE, "nic-add", "nic-del", "nic-set", "nics", "capture")],
]
RAW = [
    b"[" * 100_000,
    b"{" * 100_000,
    b'{"do": ',
    b"\xff\xfe",
    b"5",
    b"null",
    b'"nic-add"',
    b"[1]",
    b'{"do":"' + b"x" * (2 << 20),
]


def test_nonsense_on_the_control_socket_is_refused_and_changes_nothing(live: Live) -> None:
    """A clear error, never our mistake; the keeper lives, and everything is as it was."""
    before, keeper = live.state(), live.ask("ping")["pid"]
    file = live.world.folder / "lab.toml"
    for request in WRONG:
        text = json.dumps(request).replace('"LAB"', json.dumps(str(file)))
        with live.trap(0, "none"):
            kind, message = _refusal(live, text.encode())
        assert "AddCard" not in live.things(), f"{text[:200]}: {live.things()}"
        message = message.replace(HUGE, "HUGE")
        assert kind in ("usage", "config", "not-found", "taken", "host", "step"), f"{text[:200]}: {kind}: {message}"
        assert "Traceback" not in message
    for line in RAW:
        kind, message = _refusal(live, line)
        assert kind == "usage", f"{line[:50]!r}: {kind}: {message}"
    assert live.ask("ping")["pid"] == keeper
    assert not differs(before, live.state()), differs(before, live.state())


def _refusal(live: Live, line: bytes) -> tuple[str, str]:
    """Send a line; return the kind and the message of the error that it gets."""
    with live.control() as control:
        control.sock.settimeout(PATIENCE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            control.sock.sendall(line + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            seen = control.sock.recv(65536)
            assert seen, f"{line[:100]!r}: hung up without a word"
            data += seen
    reply = json.loads(data)
    assert "error" in reply, f"{line[:300]!r}: {data[:300]!r}"
    return reply["error"]["kind"], json.dumps(reply["error"])
