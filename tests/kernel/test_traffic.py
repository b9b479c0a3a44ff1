"""What goes through a tap or a macvtap is counted and captured as its guest sees it; the guest is played here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.errors import NotFound
from qemunet.host import counters, pcap
from qemunet.host.counters import Counters
from qemunet.host.linux import LinuxHost
from qemunet.host.netns import Place
from qemunet.host.packets import Packets
from qemunet.locks import Lock
from qemunet.model.names import group
from qemunet.model.nic import MacvtapMode
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime
from qemunet.steps import AddLink, DelLink, MacvtapLink, Mark, OpenMacvtap, OpenTap, SetLink
from tests.pcap import Frame, parse

from .conftest import ip, quiet

QEMUNET = str(Path(sys.executable).with_name("qemunet"))
GUEST, HOST = "52:54:00:00:00:01", "fe:54:00:00:00:01"
VNET = bytes(10)  # struct virtio_net_hdr: nothing is offloaded
PATIENCE = 20.0  # seconds


def frame(to: str, by: str, text: bytes, kind: int = 0x88B5) -> bytes:
    """A frame of the type that is kept for local experiments."""
    return bytes.fromhex((to + by).replace(":", "")) + struct.pack("!H", kind) + text.ljust(50, b".")


def mark(host: LinuxHost, part: str = "net0") -> Mark:
    return Mark("vm/one", part, group(host.runtime, "vm/one"))


def open_tap(host: LinuxHost, name: str = "qn-one") -> int:
    quiet("default")  # it is up as soon as it is there, and IPv6 would have something to say at once
    host.perform(OpenTap("one:net0", name, mark(host), HOST, 1500))
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("0")
    quiet(name)
    return host.handles["one:net0"][0]


def open_macvtap(host: LinuxHost) -> int:
    host.perform(AddLink("qn-mv", MacvtapLink("eth1", MacvtapMode.BRIDGE, GUEST, 1500), mark(host, "net1")))
    quiet("qn-mv")
    host.perform(SetLink("qn-mv", up=True))
    host.perform(OpenMacvtap("one:net1", "qn-mv"))
    return host.handles["one:net1"][0]


@contextlib.contextmanager
def wire(name: str) -> Iterator[socket.socket]:
    """Frames that the host sends through an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((name, 0))
        yield sock


def before_and_after(host: LinuxHost, name: str, *actions: tuple[socket.socket | int, bytes, int]) -> Counters:
    """What was counted while these frames were sent, each so often: by the guest (a descriptor) or by a socket."""
    first = counted(host, name)
    for where, data, often in actions:
        for _ in range(often):
            if isinstance(where, int):
                os.write(where, VNET + data)
            else:
                where.send(data)
    taken(host.handles["one:net0" if name == "qn-one" else "one:net1"][0])
    last = counted(host, name)
    return Counters(*(difference(getattr(first, way), getattr(last, way)) for way in ("rx", "tx")))


def taken(fd: int) -> int:
    """Have the guest take all frames that are there; what it does not take has not been sent."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 65536):
            count += 1
    return count


def difference(first: counters.Flow, last: counters.Flow) -> counters.Flow:
    parts = ("bytes", "packets", "errors", "dropped")
    return counters.Flow(*(getattr(last, part) - getattr(first, part) for part in parts))


def counted(host: LinuxHost, name: str) -> Counters:
    found = counters.read(host.net, name, mark(host).group)
    assert found is not None
    return found


# ---------------------------------------------------------------- counters


def test_a_tap_receives_what_its_guest_sends(host: LinuxHost) -> None:
    fd = open_tap(host)
    with wire("qn-one") as sock:
        data = frame(HOST, GUEST, b"up"), frame(GUEST, HOST, b"down")
        seen = before_and_after(host, "qn-one", (fd, data[0], 3), (sock, data[1], 5))
    assert (seen.rx.packets, seen.rx.bytes) == (3, 3 * 64), "what the guest sent"
    assert (seen.tx.packets, seen.tx.bytes) == (5, 5 * 64), "what the guest got"
    assert seen.from_behind().rx.packets == 5


def test_a_macvtap_receives_what_its_guest_receives(host: LinuxHost) -> None:
    """It counts as an interface of the guest's own."""
    fd = open_macvtap(host)
    with wire("eth1-peer") as sock:
        data = frame("02:00:00:00:00:09", GUEST, b"up"), frame(GUEST, "02:00:00:00:00:09", b"down")
        seen = before_and_after(host, "qn-mv", (fd, data[0], 3), (sock, data[1], 5))
    assert (seen.tx.packets, seen.tx.bytes) == (3, 3 * 64), "what the guest sent"
    # the kernel has taken the Ethernet header off when it counts what a macvtap gets, and puts it back for counting
    assert seen.rx.packets == 5, "what the guest got"
    assert seen.rx.bytes == 5 * 64
    host.perform(DelLink("qn-mv", mark(host, "net1")))


def test_what_the_guest_does_not_take_in_time_is_dropped_on_its_way_in(host: LinuxHost) -> None:
    open_tap(host)
    with wire("qn-one") as sock:
        seen = before_and_after(host, "qn-one", (sock, frame(GUEST, HOST, b"down"), 1500)).from_behind()
    assert 0 < seen.rx.packets < 1500
    assert seen.rx.dropped == 1500 - seen.rx.packets
    assert (seen.tx.dropped, seen.rx.errors) == (0, 0)


def test_a_name_that_is_somebody_elses_is_not_counted(host: LinuxHost) -> None:
    open_tap(host)
    assert counters.read(host.net, "eth1", mark(host).group) is None
    assert counters.read(host.net, "qn-one", mark(host).group + 1) is None
    assert counters.read(host.net, "nothing", mark(host).group) is None


# ---------------------------------------------------------------- packets


def all_of(packets: Packets, count: int) -> list[Frame]:
    """Read until so many frames of ours came."""
    records: list[bytes] = []
    deadline = time.monotonic() + PATIENCE
    while len(ours(records)) < count:
        assert time.monotonic() < deadline, records
        select.select([packets], [], [], 0.1)
        records += packets.read()
    return ours(records)


def ours(records: list[bytes]) -> list[Frame]:
    return [frame for frame in parse(pcap.HEADER + b"".join(records)) if frame.kind in (0x88B5, 0x8100)]


def test_frames_are_seen_both_ways_with_their_times_and_tags(host: LinuxHost) -> None:
    """A tag that the kernel took out is put back; of several thousand frames none is lost."""
    fd = open_tap(host)
    began = time.time_ns()
    tagged = frame(HOST, GUEST, struct.pack("!HH", 3 << 13 | 10, 0x88B5), kind=0x8100)
    with contextlib.closing(Packets(Place(), "qn-one")) as packets, wire("qn-one") as sock:
        up, down = frame(HOST, GUEST, b"up"), frame(GUEST, HOST, b"down")
        os.write(fd, VNET + up)
        sock.send(down)
        os.write(fd, VNET + tagged)
        found = all_of(packets, 3)
        assert [one.data for one in found] == [up, down, tagged]
        assert began < found[0].time < found[1].time < found[2].time < time.time_ns()
        for _ in range(5000):
            os.write(fd, VNET + up)
        assert len(all_of(packets, 5000)) == 5000
        assert packets.dropped() == 0
        packets.stop()
        assert not packets.over
        os.write(fd, VNET + up)
        assert packets.read() == []
        assert packets.over == "stopped"


def test_what_the_kernel_had_no_room_for_is_counted(host: LinuxHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemunet.host.packets._BUFFER", 4096)
    fd = open_tap(host)
    with contextlib.closing(Packets(Place(), "qn-one")) as packets:
        for _ in range(100):
            os.write(fd, VNET + frame(HOST, GUEST, b"up"))
        assert packets.dropped() + len(ours(packets.read())) == 100
        assert packets.dropped() > 0, "it does not forget what it said before"


@pytest.mark.parametrize("kind", ["tap", "macvtap"])
def test_it_survives_a_link_that_goes_down_and_ends_with_the_interface(kind: str, host: LinuxHost) -> None:
    fd = open_tap(host) if kind == "tap" else open_macvtap(host)
    name = "qn-one" if kind == "tap" else "qn-mv"
    with contextlib.closing(Packets(Place(), name)) as packets:
        ip("link", "set", name, "down")
        packets.read()
        ip("link", "set", name, "up")
        quiet(name)
        data = frame("02:00:00:00:00:09", GUEST, b"up")
        os.write(fd, VNET + data)
        assert all_of(packets, 1)[0].data == data
        host.release("one:net0" if kind == "tap" else "one:net1")
        if kind == "macvtap":
            host.perform(DelLink("qn-mv", mark(host, "net1")))
        deadline = time.monotonic() + PATIENCE
        while not packets.over:
            assert time.monotonic() < deadline
            select.select([packets], [], [], 0.01)
            packets.read()
        assert packets.over == "the interface is gone"


def test_both_ways_of_a_macvtap_are_seen(host: LinuxHost) -> None:
    fd = open_macvtap(host)
    with contextlib.closing(Packets(Place(), "qn-mv")) as packets, wire("eth1-peer") as sock:
        up, down = frame("02:00:00:00:00:09", GUEST, b"up"), frame(GUEST, "02:00:00:00:00:09", b"down")
        os.write(fd, VNET + up)
        sock.send(down)
        assert [one.data for one in all_of(packets, 2)] == [up, down]
    host.perform(DelLink("qn-mv", mark(host, "net1")))


def test_there_must_be_an_interface(host: LinuxHost) -> None:
    with pytest.raises(NotFound, match="no interface nothing"):
        Packets(Place(), "nothing")


# ---------------------------------------------------------------- the commands


class Stage:
    """A vm ``one`` on record, whose QEMU is this process: a tap ``net0`` and a user-mode card ``net1``."""

    def __init__(self, host: LinuxHost, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.runtime = Runtime(host.runtime)
        self.fd = open_tap(host)
        cards = (
            NicRecord("net0", "tap", "e1000", GUEST, "up", "qn-one", HOST),
            NicRecord("net1", "user", "e1000", "", "up"),
        )
        with self.runtime.exclusive():
            scope = self.runtime.scope("vm/one")
            scope.create()
            self.lock = Lock.take(scope.path("lock"), create=True)
        assert self.lock is not None
        scope.save(VmRecord("one", "lab", "/lab.toml", "pc", "tcg", cards, os.getpid(), 1, started=True))

    def start(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "QEMUNET_RUNTIME_DIR": self.runtime.path}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([QEMUNET, *words], env=environment, **pipes)  # type: ignore[call-overload,no-any-return]

    def capture(self, *words: str, **options: object) -> subprocess.Popen[bytes]:
        """Begin a capture at net0; return when it is live."""
        process = self.start("nic", "capture", "one", "net0", *words, **options)
        assert process.stderr is not None
        said = process.stderr.readline()
        if said != b"capturing net0 of one (qn-one); ^C ends it\n":
            process.kill()
            pytest.fail(f"{said!r}, {process.communicate()}")
        return process

    def runs(self, *words: str, status: int = 0) -> tuple[str, str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, err
        return out.decode(), err.decode()

    def sends(self, *texts: bytes) -> None:
        for text in texts:
            os.write(self.fd, VNET + frame(HOST, GUEST, text))

    def end(self) -> None:
        if "one:net0" in self.host.handles:
            self.host.release("one:net0")
        assert self.lock is not None
        with self.runtime.exclusive():
            self.runtime.scope("vm/one").remove()
        self.lock.release()


@pytest.fixture
def stage(host: LinuxHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    one = Stage(host, tmp_path_factory.mktemp("files"))
    yield one
    one.end()


def over(process: subprocess.Popen[bytes], status: int = 0) -> str:
    """What it says at its end."""
    with process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, err
    return err.decode()


def texts(path: Path) -> list[bytes]:
    return [one.payload.rstrip(b".") for one in parse(path.read_bytes()) if one.kind == 0x88B5]


def test_interrupting_is_the_normal_end_of_a_capture(stage: Stage) -> None:
    """Each frame is in the file at once, and all that came before the signal are there after it."""
    file = stage.folder / "file.pcap"
    file.write_bytes(b"x" * 10_000)
    for number in (signal.SIGINT, signal.SIGTERM):
        process = stage.capture("-w", str(file))
        stage.sends(b"a")
        deadline = time.monotonic() + PATIENCE
        while texts(file) != [b"a"]:
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)
        stage.sends(b"b", b"c")
        process.send_signal(number)
        assert over(process) == "3 packets captured, 0 dropped\n"
        assert texts(file) == [b"a", b"b", b"c"]


def test_two_captures_at_one_card_end_by_number_and_by_time(stage: Stage) -> None:
    first, second = stage.folder / "first", stage.folder / "second"
    one = stage.capture("-w", str(first), "-c", "2")
    other = stage.capture("-w", str(second), "--duration", "1s")
    stage.sends(b"a", b"b", b"c")
    assert over(one) == "2 packets captured, 0 dropped\n"
    assert over(other) == "3 packets captured, 0 dropped\n"
    assert (texts(first), texts(second)) == ([b"a", b"b"], [b"a", b"b", b"c"])
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_capture_can_go_through_a_pipe(stage: Stage) -> None:
    """A reader sees each frame as it comes; when he leaves, that is said once."""
    process = stage.capture("-w", "-")
    assert process.stdout is not None
    data = b""
    for text in (b"first of two", b"second of two"):  # longer than what a time may look like by chance
        stage.sends(text)
        while text not in data[24:]:
            assert select.select([process.stdout], [], [], PATIENCE)[0]
            data += os.read(process.stdout.fileno(), 65536)
        assert parse(data)[-1].payload.rstrip(b".") == text
    process.stdout.close()
    process.stdout = None
    stage.sends(b"c")
    assert over(process, 141) == "whoever read the packets has left\n"


def test_a_full_disk_is_one_line(stage: Stage) -> None:
    """What fitted is in the file, frame by frame."""
    disk = stage.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=True)
    try:
        process = stage.capture("-w", str(disk / "file"))
        stage.sends(*(b"%d" % number for number in range(500)))
        error, hint = over(process, 1).splitlines()
        assert error == f"error: {disk / 'file'}: cannot write: No space left on device"
        assert hint.startswith("  hint: ")
        found = texts(disk / "file")
        assert found == [b"%d" % number for number in range(len(found))]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_capture_ends_with_its_card(stage: Stage) -> None:
    process = stage.capture("-w", str(stage.folder / "file"))
    stage.sends(b"a")
    stage.host.release("one:net0")
    assert over(process) == "1 packet captured, 0 dropped; the interface is gone\n"
    assert texts(stage.folder / "file") == [b"a"]


def test_what_is_not_there_is_said(stage: Stage) -> None:
    """And the file is not touched."""
    file = stage.folder / "file"
    file.write_bytes(b"mine")
    words = "-w", str(file)
    assert 'vm.one: there is no card "net7"' in stage.runs("nic", "capture", "one", "net7", *words, status=4)[1]
    assert 'no vm of the name "two"' in stage.runs("nic", "capture", "two", "net0", *words, status=4)[1]
    assert 'no vm of the name "two"' in stage.runs("nic", "stats", "two", status=4)[1]
    assert "neither a file" in stage.runs("nic", "capture", "one", "net0", "-w", "/dev/null", status=2)[1]
    assert "missing: -w" in stage.runs("nic", "capture", "one", "net0", status=2)[1]
    stage.host.release("one:net0")
    ip("link", "add", "qn-one", "type", "bridge")
    quiet("qn-one")
    assert "no interface qn-one of one" in stage.runs("nic", "capture", "one", "net0", *words, status=4)[1]
    assert json.loads(stage.runs("nic", "stats", "one", "--json")[0])[0]["rx_bytes"] is None
    ip("link", "del", "qn-one")
    assert file.read_bytes() == b"mine"


def test_stats_are_the_guests(stage: Stage) -> None:
    """A card that has no interface on the host has no numbers, not even zeroes."""
    with wire("qn-one") as sock:
        sock.send(frame(GUEST, HOST, b"down"))
    taken(stage.fd)
    stage.sends(b"a", b"b")  # of a type that nobody on the host takes
    first, second = json.loads(stage.runs("nic", "stats", "one", "--json")[0])
    assert first == {
        "id": "net0",
        "mode": "tap",
        "ifname": "qn-one",
        "rx_bytes": 64,
        "rx_packets": 1,
        "rx_errors": 0,
        "rx_dropped": 0,
        "tx_bytes": 128,
        "tx_packets": 2,
        "tx_errors": 0,
        "tx_dropped": 2,
    }
    assert second["id"] == "net1"
    assert {second[key] for key in first if key.startswith(("rx", "tx"))} == {None}
    header, row, other = stage.runs("nic", "stats", "one")[0].splitlines()
    assert header.split()[:5] == ["NIC", "RX-BYTES", "RX-PACKETS", "RX-ERRORS", "RX-DROPPED"]
    assert row.split() == ["net0", "64", "1", "0", "0", "128", "2", "0", "2"]
    assert other.split() == ["net1"] + ["-"] * 8


def test_watching_goes_on_until_it_is_interrupted(stage: Stage) -> None:
    """One JSON object a line and a look; ^C is the normal end."""
    with stage.start("nic", "stats", "one", "--watch", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        stage.sends(b"a")
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert [look["nics"][0]["tx_packets"] for look in (first, second)] == [0, 1]
    assert 0.9 < second["time"] - first["time"] < 5


def test_a_terminal_is_drawn_anew(stage: Stage) -> None:
    """A header and two cards: three lines up, and what is below is cleared."""
    ours, theirs = os.openpty()
    with stage.start("nic", "stats", "one", "--watch", stdout=theirs) as process:
        os.close(theirs)
        seen = b""
        while seen.count(b"RX-BYTES") < 2:
            assert select.select([ours], [], [], PATIENCE)[0]
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert b"\r\n\x1b[3A\x1b[JNIC" in seen


def test_watching_ends_with_the_vm(stage: Stage) -> None:
    with stage.start("nic", "stats", "one", "--watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"NIC")
        with stage.runtime.exclusive():
            stage.runtime.scope("vm/one").remove()
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, b"one has ended\n")
        assert b"\x1b" not in out


@pytest.mark.parametrize("words", [("--interval", "1s"), ("--watch", "--interval", "0s")])
def test_an_interval_is_for_watching(words: tuple[str, ...], stage: Stage) -> None:
    assert "--interval" in stage.runs("nic", "stats", "one", *words, status=2)[1]
