"""`exec` runs a command in a guest as if it ran here: its output, its errors, its status, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import Failed, TimedOut
from qemunet.guest import image
from qemunet.live import inside
from qemunet.state import Runtime
from tests import namespace
from tests.dump import dump, left_behind
from tests.guest.scene import QEMUNET, Scene, wait_for

pytestmark = [pytest.mark.guest, pytest.mark.root]

LONG = 120.0  # seconds
LAB = """
[vm.inn]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
"""
PLAIN = """
[vm.plain]
memory = "128M"
accel = "tcg"
boot.kernel = "{0.kernel}"
boot.initrd = "{0.initrd}"
boot.append = "{0.append}"
"""
WHILE_IT_RUNS = "[ -e /proc/{0} ] && ! grep -q 'State:.Z' /proc/{0}/status"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A host with one guest; afterwards nothing of it is left."""
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)
    with namespace.fresh_namespace():
        folder = tmp_path_factory.mktemp("inn")
        before = dump(folder / "run")
        found = Scene(folder)
        with found.lab(LAB):
            yield found
        left = left_behind(before, folder / "run")
        assert not left, left


def run(scene: Scene, *argv: str, stdin: bytes = b"", timeout: float | None = None) -> inside.Outcome:
    return inside.call(Runtime(str(scene.runtime)), "inn", argv, stdin=stdin, timeout=timeout)


def sh(scene: Scene, line: str) -> str:
    done = run(scene, "sh", "-c", line)
    assert done.status == 0, done
    return done.stdout.decode()


def begin(scene: Scene, *words: str, **pipes: Any) -> subprocess.Popen[bytes]:
    wanted = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
    return subprocess.Popen([QEMUNET, "exec", *words], env=scene.environment, **wanted)


def runs(scene: Scene, pid: str) -> bool:
    return run(scene, "sh", "-c", WHILE_IT_RUNS.format(pid)).status == 0


@pytest.fixture
def plain(scene: Scene) -> Iterator[str]:
    """A guest without an agent, at whose console nobody has typed."""
    file = scene.folder / "plain.toml"
    file.write_text(PLAIN.format(image.build(print)))
    scene.qemunet("run", "-d", str(file))
    yield "plain"
    scene.qemunet("stop", "--force", "plain")


def test_what_has_no_agent_is_typed_to_at_its_console(scene: Scene, plain: str) -> None:
    """One command after the other, and what that cannot do is said."""
    here = Runtime(str(scene.runtime))
    done = inside.call(here, plain, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.status, done.stdout) == (7, b"out\nerr\n")
    assert b"typed at its console" in done.stderr
    with pytest.raises(inside.Expired):
        inside.call(here, plain, ["sleep", "1000"], timeout=2)
    assert inside.call(here, plain, ["cat", "/proc/1/comm"]).stdout == b"init\n"
    with begin(scene, "-n", plain, "--", "hostname") as process:
        assert process.communicate(timeout=LONG)[0].strip()
        assert process.returncode == 0
    with begin(scene, plain, "--", "cat", stdin=subprocess.PIPE) as process:
        _, said = process.communicate(b"some", timeout=LONG)
        assert b"gets no input" in said
        assert process.returncode == 125


def test_whether_somebody_listens_is_asked_as_everywhere(scene: Scene) -> None:
    """`nc -z`, which busybox does not have; and its nc is there as always."""
    sh(scene, "httpd -p 127.0.0.1:8099 -h /proc")
    assert run(scene, "sh", "-c", "nc -zw2 127.0.0.1 8099").status == 0
    assert run(scene, "nc", "-zv", "-w", "2", "127.0.0.1", "8099").status == 0
    assert run(scene, "sh", "-c", "nc -zw2 127.0.0.1 8098").status == 1
    assert "HTTP/1" in sh(scene, "printf 'GET /version HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 8099")
    assert run(scene, "nc", "-u", "127.0.0.1", "8099").status == 1


def test_output_errors_and_status_are_the_commands_own(scene: Scene) -> None:
    """Apart from each other, with every byte that there is, and with arguments that are not words of a shell."""
    done = run(scene, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done == inside.Outcome(7, b"out\n", b"err\n")
    every = bytes(range(256)) * 9
    assert run(scene, "cat", stdin=every).stdout == every
    words = [
        "a b",
        "",
        "*",
        "$HOME",
        "it's",
        "end\n",
        "\n",
        "\\n",
        bytes(range(1, 256)).decode(errors="surrogateescape"),
    ]
    said = run(scene, "printf", "%s|", *words).stdout
    assert said == b"".join(os.fsencode(word) + b"|" for word in words)
    assert run(scene, "no-such-command").status == 127
    assert run(scene, "sh", "-c", "kill -9 $$").status == 128 + 9


def test_the_command_line_passes_on_what_it_is_given(scene: Scene) -> None:
    """The options before the name are ours, everything behind `--` is the command's."""
    line = ("inn", "--", "sh", "-c", 'tr a-z A-Z; printf %s "$1" >&2; exit 3', "sh", "-n")
    done = subprocess.run([QEMUNET, "exec", *line], input=b"piped", env=scene.environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"PIPED", b"-n")
    late = scene.qemunet("exec", "--timeout", "1s", "inn", "--", "sleep", "1000", status=124)
    assert late == "error: vm.inn: the command was killed after 1 s\n"
    assert not scene.qemunet("exec", "--timeout", "0", "inn", "--", "true")
    assert "nobody" in scene.qemunet("exec", "nobody", "--", "true", status=125)
    assert "missing" in scene.qemunet("exec", "inn", status=2)


def test_many_at_once_each_have_their_own(scene: Scene) -> None:
    """Their input and their output meet nobody else's, while the table of cards goes on telling."""
    texts = [random.Random(number).randbytes(60_000) for number in range(4)]
    begun = [begin(scene, "inn", "--", "sh", "-c", f"cat; exit {n}", stdin=subprocess.PIPE) for n in range(4)]
    assert scene.cards("inn")[0]["guest_ifname"] == "eth0"
    done = [one.communicate(text, timeout=LONG)[0] for one, text in zip(begun, texts, strict=True)]
    assert done == texts
    assert [one.returncode for one in begun] == list(range(4))


def test_who_does_not_read_holds_up_his_own_command_alone(scene: Scene) -> None:
    """The flood waits in the guest: neither the keeper nor anybody else has to hold it."""
    flood = begin(scene, "inn", "--", "sh", "-c", "echo $$ >/tmp/flood; yes")
    wait_for(lambda: run(scene, "test", "-s", "/tmp/flood").status == 0, timeout=LONG)
    (keeper,) = (scene.runtime / "lab").glob("*/pid")
    before = memory(int(keeper.read_text()))
    assert sh(scene, "dd if=/dev/zero bs=65536 count=16 2>/dev/null | wc -c") == "1048576\n"
    assert memory(int(keeper.read_text())) < before + (16 << 20)
    pid = sh(scene, "cat /tmp/flood").strip()
    assert runs(scene, pid)
    flood.kill()
    flood.communicate()
    wait_for(lambda: not runs(scene, pid), timeout=LONG)


def memory(pid: int) -> int:
    """What a process has in memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_megabytes_arrive_as_they_were(scene: Scene) -> None:
    """In both directions, and what is left of it in the guest afterwards is nothing."""
    data = random.Random(1).randbytes(1 << 20)
    digest = run(scene, "sh", "-c", "cat >/tmp/big; sha256sum </tmp/big", stdin=data).stdout.split()[0].decode()
    assert digest == sh(scene, "sha256sum /tmp/big").split()[0]
    assert run(scene, "cat", "/tmp/big").stdout == data
    wait_for(lambda: len(sh(scene, "ls /run/calls; rm -f /tmp/big").split()) <= 12, timeout=LONG)


def test_a_guest_that_has_no_room_left_loses_nothing_of_it(scene: Scene) -> None:
    """A full root directory is in nobody's way; where the agent itself has no room, that is said, and no success."""
    assert run(scene, "sh", "-c", "cat /dev/zero >/tmp/fill").status == 1
    data = random.Random(3).randbytes(100_000)
    assert run(scene, "cat", stdin=data) == inside.Outcome(0, data, b"")
    line = "cat /dev/zero >/run/calls/fill; read _; rm /run/calls/fill"
    with begin(scene, "inn", "--", "sh", "-c", f"rm /tmp/fill; ({line}) 2>/dev/null", stdin=subprocess.PIPE) as filler:
        wait_for(lambda: no_room(scene, b""), timeout=LONG)
        assert no_room(scene, data)
        filler.communicate(timeout=LONG)
        assert filler.returncode == 0
    assert run(scene, "cat", stdin=data) == inside.Outcome(0, data, b"")


def no_room(scene: Scene, data: bytes) -> bool:
    """Whether a command fails for want of room."""
    try:
        done = run(scene, "cat", stdin=data)
    except Failed as error:
        return "no room" in str(error)
    assert done == inside.Outcome(0, data, b"")
    return False


def test_where_memory_is_short_commands_die_before_what_runs_them(scene: Scene) -> None:
    """The agent is the last that the kernel takes; to what it runs it gives none of that."""
    assert "-1000" in run(scene, "sh", "-c", "cat /proc/[0-9]*/oom_score_adj").stdout.decode().split()
    assert sh(scene, "cat /proc/self/oom_score_adj") == "0\n"


def test_files_and_directories_are_carried_in_and_out(scene: Scene, tmp_path: Path) -> None:
    """With their permissions; into a directory if the target is one, and never as half a file."""
    data = random.Random(2).randbytes(600_000)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/tool").write_bytes(data)
    (tree / "sub/tool").chmod(0o751)
    (tree / "link").symlink_to("sub/tool")
    scene.qemunet("cp", str(tree / "sub/tool"), "inn:/tmp")
    assert sh(scene, "stat -c %a /tmp/tool; sha256sum </tmp/tool").split()[0] == "751"
    scene.qemunet("cp", "inn:/tmp/tool", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o751
    scene.qemunet("cp", "-r", str(tree), "inn:/tmp/one")
    assert sh(scene, "readlink /tmp/one/link; stat -c %a /tmp/one/sub/tool") == "sub/tool\n751\n"
    scene.qemunet("cp", "-r", "inn:/tmp/one", str(tmp_path))
    assert (tmp_path / "one/link").readlink() == Path("sub/tool")
    assert (tmp_path / "one/sub/tool").read_bytes() == data
    assert "-r copies" in scene.qemunet("cp", "inn:/tmp/one", str(tmp_path / "x"), status=1)
    assert "no such file" in scene.qemunet("cp", "inn:/nowhere", str(tmp_path / "x"), status=1)
    assert "both are in guests" in scene.qemunet("cp", "inn:/a", "inn:/b", status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "one", "tree"]


@pytest.mark.parametrize(
    "end", [lambda one: one.send_signal(signal.SIGINT), lambda one: one.kill()], ids=["^C", "kill"]
)
def test_a_command_ends_with_whoever_asked_for_it(scene: Scene, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
    """So do those that it has started, also if they take no notice of TERM."""
    line = "trap '' TERM; sleep 1000 & echo $$ $!; wait"
    asked = begin(scene, "inn", "--", "sh", "-c", line)
    assert asked.stdout is not None
    pids = asked.stdout.readline().decode().split()
    assert [runs(scene, pid) for pid in pids] == [True, True]
    end(asked)
    asked.communicate(timeout=LONG)
    assert asked.returncode in (130, -9)
    wait_for(lambda: not any(runs(scene, pid) for pid in pids), timeout=LONG)


def test_a_command_whose_reader_has_left_ends_without_a_word_as_in_a_pipe(scene: Scene) -> None:
    asked = begin(scene, "inn", "--", "sh", "-c", "echo $$; while echo more; do :; done")
    assert asked.stdout is not None
    pid = asked.stdout.readline().decode().strip()
    asked.stdout.close()
    asked.stdout = None
    _, err = asked.communicate(timeout=LONG)
    assert (asked.returncode, err) == (141, b"")
    wait_for(lambda: not runs(scene, pid), timeout=LONG)


def test_what_it_leaves_running_is_not_waited_for(scene: Scene) -> None:
    """Though that has its output open: it may go on writing, to nobody."""
    done = run(
        scene, "sh", "-c", "(echo early; sleep 1; while echo late; do sleep 1; done) & sleep 0.5; echo $!", timeout=LONG
    )
    early, pid = done.stdout.decode().split()
    assert (done.status, early) == (0, "early")
    assert run(scene, "sh", "-c", f"sleep 3; kill {pid}").status == 0


def test_a_time_limit_kills_and_tells_the_last_words(scene: Scene) -> None:
    with pytest.raises(TimedOut, match='the last it wrote is "almost"'):
        run(scene, "sh", "-c", "echo almost; sleep 1000", timeout=3)
    assert "sleep 1000" not in sh(scene, "ps")


def test_a_killed_keeper_ends_its_calls_and_the_next_one_runs_others(scene: Scene) -> None:
    """Who waited is told; what ran is ended as soon as there is a keeper again."""
    asked = begin(scene, "inn", "--", "sh", "-c", "echo $$; cat /dev/zero", stdin=subprocess.PIPE)
    assert asked.stdout is not None
    pid = asked.stdout.readline().decode().strip()
    (keeper,) = (scene.runtime / "lab").glob("*/pid")
    os.kill(int(keeper.read_text()), signal.SIGKILL)
    told = asked.communicate(timeout=LONG)[1].decode()
    assert (asked.returncode, told.count("error:")) == (125, 1), told
    assert "keeper" in told
    wait_for(lambda: not runs(scene, pid), timeout=LONG)


def test_a_reboot_in_the_middle_is_told_and_the_guest_is_asked_again(scene: Scene) -> None:
    """It has booted again by then: that is waited for."""
    asked = begin(scene, "inn", "--", "sh", "-c", "echo on; sleep 1000")
    assert asked.stdout is not None
    assert asked.stdout.readline() == b"on\n"
    scene.qemunet("qmp", "inn", "system_reset")
    told = asked.communicate(timeout=LONG)[1].decode()
    assert (asked.returncode, told) == (125, "error: vm.inn: the guest has rebooted meanwhile\n")
    assert sh(scene, "echo back") == "back\n"
