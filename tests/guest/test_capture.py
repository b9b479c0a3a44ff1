"""What a guest sends and gets is captured, live, whatever its card is; and it never notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from qemunet.guest import image
from qemunet.live.control import Control, Message
from tests import namespace
from tests.guest.scene import QEMUNET, Guest, Scene, wait_for
from tests.pcap import Frame, parse, pings

pytestmark = pytest.mark.guest

LAB = """
[vm.one]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
[[vm.one.nic]]
mode = "user"
forward = ["tcp:127.0.0.1:5580:80"]
[[vm.one.nic]]
mode = "tap"
address = "10.0.0.1/30"
ip = ["10.0.0.2/30"]
"""
TEN_MEGABYTES = 10 << 20


class Stage:
    """The guest ``one`` with a card in user mode (eth0) and a routed tap (eth1)."""

    def __init__(self, scene: Scene, guest: Guest) -> None:
        self.scene = scene
        self.guest = guest
        self.macs = [card["mac"] for card in scene.cards("one")]
        self.begun: list[subprocess.Popen[bytes]] = []
        self.vm = scene.runtime / "vm/one"

    def capture(self, nic: str, *words: str) -> subprocess.Popen[bytes]:
        argv = [QEMUNET, "nic", "capture", "one", nic, *words]
        process = subprocess.Popen(argv, env=self.scene.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.begun.append(process)
        assert process.stderr is not None
        said = process.stderr.readline()
        if not said.startswith(b"capturing "):
            process.kill()
            pytest.fail(f"{said!r}, {process.communicate()}")
        return process

    @contextlib.contextmanager
    def captured(self, nic: str, found: list[Frame]) -> Iterator[None]:
        """Capture meanwhile."""
        file = self.scene.folder / f"{nic}.pcap"
        process = self.capture(nic, "-w", str(file))
        yield
        process.send_signal(signal.SIGINT)
        assert over(process).endswith(" captured, 0 dropped\n")
        found += parse(file.read_bytes())

    def control(self) -> Control:
        return Control.open(str(self.scene.runtime / "lab/lab/keeper.sock"))

    def qmp(self, command: str, arguments: Message | None = None) -> object:
        with self.control() as control:
            return control.ask("qmp", vm="one", execute=command, arguments=arguments or {})["return"]

    def captures(self) -> list[str]:
        """What of captures is in QEMU."""
        text = json.dumps([self.qmp("qom-list", {"path": "/objects"}), self.qmp("query-chardev")])
        return [word for word in text.split('"') if word.startswith("capture-")]

    def keeper(self) -> int:
        return int((self.scene.runtime / "lab/lab/pid").read_text())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)
    with namespace.fresh_namespace():
        scene = Scene(tmp_path_factory.mktemp("capture"))
        scene.qemunet("run", "-d", str(scene.write(LAB)))
        guest = scene.guest("one")
        try:
            guest.await_ready()
            guest.wait_until("ip -4 address show dev eth0 | grep -q 10.0.2.15/24")
            guest.wait_until("ip -4 address show dev eth1 | grep -q 10.0.0.2/30")
            guest.succeeds("dd if=/dev/zero of=/root/www/much bs=1M count=10")  # its httpd runs
            stage = Stage(scene, guest)
            yield stage
            stage.guest.close()
            for process in stage.begun:
                process.kill()  # of a test that failed
                process.communicate()
        finally:
            subprocess.run([QEMUNET, "stop", "--force", "one"], env=scene.environment, capture_output=True)


def over(process: subprocess.Popen[bytes], status: int = 0) -> str:
    with process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    return err.decode()


def fetch(path: str = "much") -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:5580/{path}", timeout=60) as answer:
        return len(answer.read())


def udp_ports(frames: list[Frame]) -> list[tuple[int, int]]:
    found = []
    for frame in frames:
        header = (frame.payload[0] & 15) * 4
        if frame.kind == 0x0800 and frame.payload[9] == 17:
            found.append((int.from_bytes(frame.payload[header:][:2]), int.from_bytes(frame.payload[header + 2 :][:2])))
    return found


def test_a_user_mode_card_shows_dhcp_and_http_both_ways(stage: Stage) -> None:
    """Though no interface of the host has ever seen those frames."""
    found: list[Frame] = []
    with stage.captured("net0", found):
        stage.guest.succeeds("udhcpc -i eth0 -n -q -s /bin/true")
        assert fetch() == TEN_MEGABYTES
    assert {stage.macs[0]} <= {frame.by for frame in found}
    assert all(stage.macs[0] in (frame.by, frame.to) or int(frame.to[:2], 16) & 1 for frame in found)
    assert {(68, 67), (67, 68)} <= set(udp_ports(found))
    answer = b"".join(frame.data[54:] for frame in found if frame.by == stage.macs[0] and frame.kind == 0x0800)
    assert b"HTTP/1.1 200 OK" in answer
    assert any(b"GET /much HTTP/1.1" in frame.data for frame in found if frame.to == stage.macs[0])
    assert len(answer) > TEN_MEGABYTES
    assert [frame.time for frame in found] == sorted(frame.time for frame in found)
    assert stage.captures() == []


def test_a_tap_shows_request_and_reply(stage: Stage) -> None:
    found: list[Frame] = []
    with stage.captured("net1", found):
        stage.guest.pings("10.0.0.1")
    (request, reply) = pings(found)
    host = stage.scene.cards("one")[1]["host_mac"]
    assert (request, reply) == ((stage.macs[1], host, 8), (host, stage.macs[1], 0))


def test_two_captures_at_one_card_see_the_same(stage: Stage) -> None:
    """And each ends for itself."""
    first: list[Frame] = []
    second: list[Frame] = []
    with stage.captured("net0", first):
        process = stage.capture("net0", "-w", "-", "-c", "4")
        stage.guest.pings("10.0.2.2")
        stage.guest.pings("10.0.2.2")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, b"4 packets captured, 0 dropped\n")
        second += parse(out)
        assert len(stage.captures()) == 2
        stage.guest.pings("10.0.2.2")
    assert len(second) == 4
    whole, part = [[frame.data for frame in frames] for frames in (first, second)]
    assert part in [whole[begin : begin + 4] for begin in range(len(whole))]  # the guest may have said something before
    assert [kind for _, _, kind in pings(first)] == [8, 0] * 3
    assert stage.captures() == []


def test_a_client_that_stops_reading_loses_frames_and_the_guest_nothing(stage: Stage) -> None:
    process = stage.capture("net0", "-w", str(stage.scene.folder / "slow.pcap"))
    process.send_signal(signal.SIGSTOP)
    assert fetch() == TEN_MEGABYTES
    assert fetch() == TEN_MEGABYTES
    stage.guest.pings("10.0.2.2")
    assert stage.qmp("query-name") == {"name": "one"}
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    words = over(process).split()
    frames = parse((stage.scene.folder / "slow.pcap").read_bytes())
    assert len(frames) == int(words[0])
    assert int(words[3]) > 0, words


def test_nothing_is_left_of_a_client_that_was_killed(stage: Stage) -> None:
    process = stage.capture("net0", "-w", str(stage.scene.folder / "killed.pcap"))
    assert len(stage.captures()) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not stage.captures())


def test_the_guest_goes_on_when_the_keeper_is_killed(stage: Stage) -> None:
    """The capture ends and says so; a new keeper has removed what was left before that is said."""
    process = stage.capture("net0", "-w", str(stage.scene.folder / "orphan.pcap"))
    os.kill(stage.keeper(), signal.SIGKILL)
    error, *_ = over(process, 1).splitlines()
    assert error == "error: the keeper of the guest is gone, and the capture with it"
    assert stage.captures() == []
    complaints = (stage.vm / "qemu.log").read_text()
    stage.guest.close()
    stage.guest = stage.scene.guest("one")
    stage.guest._quieten()
    stage.guest.pings("10.0.2.2")
    assert fetch() == TEN_MEGABYTES
    assert (stage.vm / "qemu.log").read_text() == complaints
    found: list[Frame] = []
    with stage.captured("net0", found):
        stage.guest.pings("10.0.2.2")
    assert [kind for _, _, kind in pings(found)] == [8, 0]


def test_a_keeper_that_is_told_to_go_cleans_up_itself(stage: Stage) -> None:
    complaints = (stage.vm / "qemu.log").read_text()
    process = stage.capture("net0", "-w", str(stage.scene.folder / "told.pcap"))
    os.kill(stage.keeper(), signal.SIGTERM)
    assert over(process).endswith("captured, 0 dropped; the keeper has let go of the guest\n")
    assert fetch() == TEN_MEGABYTES
    assert (stage.vm / "qemu.log").read_text() == complaints
    stage.scene.qemunet("nic", "capture", "one", "net0", "-w", str(stage.scene.folder / "x"), "--duration", "0s")
    assert stage.captures() == []


def test_the_control_socket_refuses_what_it_cannot_capture(stage: Stage) -> None:
    for nic, words in (("net1", "at the interface qn-one-net1"), ("net7", "it has: net0, net1")):
        with stage.control() as control, pytest.raises(Exception, match=words):
            control.capture("one", nic)
    assert stage.captures() == []


def test_captures_end_with_card_and_guest(stage: Stage) -> None:
    """The last test here: the guest is gone after it."""
    unplugged = stage.capture("net0", "-w", str(stage.scene.folder / "gone.pcap"))
    stage.qmp("netdev_del", {"id": "host-net0"})
    assert over(unplugged).endswith("captured, 0 dropped; the card is gone\n")
    assert stage.captures() == []
    stage.qmp("netdev_add", {"type": "user", "id": "host-net0"})
    user = stage.capture("net0", "-w", str(stage.scene.folder / "user.pcap"))
    tap = stage.capture("net1", "-w", str(stage.scene.folder / "tap.pcap"))
    stage.scene.qemunet("stop", "--force", "one")
    assert over(user).endswith("; the guest has ended\n")
    assert over(tap).endswith("; the interface is gone\n")
