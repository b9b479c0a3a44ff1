"""An installed system does what a lab file says of it: it gets its lease, is logged into, reached, and shut down."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.image import NAME, PASSWORD
from tests.guest.cards import Stage, empty_stage, until
from tests.guest.scene import QEMUNET

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 550  # seconds
LONG = 200  # seconds for a command in the guest
LAB = f"""
[lab]
name = "office"

[network.lan]
mode = "nat"
address = ["10.45.0.1/24"]
dhcp = true
forward = ["tcp:10.45.0.1:2222:{NAME}:22"]

[vm.{NAME}]
memory = "256M"
accel = "tcg"
agent = true
nic = [{{ network = "lan", ip = ["10.45.0.7/24"] }}]
disk = [{{ file = "{NAME}.qcow2" }}]

[[vm.{NAME}.script]]
expect = "login: "
fail = "(?i)kernel panic|emergency mode"
send = "root"
timeout = "400s"
[[vm.{NAME}.script]]
expect = "assword: "
send = "{PASSWORD}"
[[vm.{NAME}.script]]
expect = '# $'
send = "mkdir -p .ssh; echo KEY >.ssh/authorized_keys; echo do''ne with {{vm.name}}"
timeout = "120s"
[[vm.{NAME}.script]]
expect = "done with box"
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The lab is up, and that is all that was done."""
    folder = tmp_path_factory.mktemp("disk")
    base = os.environ["QEMUNET_DISK_GUEST"]
    disk = folder / f"{NAME}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(disk)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    key = (folder / "key.pub").read_text().strip()
    with empty_stage(folder) as stage:
        file = str(stage.scene.write(LAB.replace("KEY", key)))
        patiently(stage, "up", file, "--wait", "ready", "--wait", "dhcp", "--timeout", "500s")
        yield stage


def patiently(stage: Stage, *words: str) -> list[str]:
    """Give a command that waits for the guest: it boots in 20 s, and in ten times that on a busy machine."""
    process = stage.begin(*words)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said.splitlines()


def ssh(stage: Stage, *words: str) -> str:
    """Run a command in the guest by way of the forward, as anybody would."""
    options = [f"UserKnownHostsFile={stage.scene.folder}/known", "StrictHostKeyChecking=accept-new", "BatchMode=yes"]
    argv = ["ssh", "-F", "none", "-i", str(stage.scene.folder / "key"), "-p", "2222"]
    argv += [word for option in options for word in ("-o", option)]
    done = subprocess.run([*argv, "root@10.45.0.1", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def begin(stage: Stage, *words: str) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([QEMUNET, "exec", *words], env=stage.scene.environment, **pipes)


def execute(stage: Stage, *command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command in the guest; return its status, its output and its errors."""
    with begin(stage, NAME, "--", *command) as process:
        out, err = process.communicate(stdin, timeout=LONG)
    return process.returncode, out, err


def test_it_has_its_lease(stage: Stage) -> None:
    (lease,) = json.loads(stage.succeeds("net", "leases", "--json").stdout)
    assert (lease["vm"], lease["nic"], lease["hostname"]) == (NAME, "net0", NAME)
    status = json.loads(stage.succeeds("status", NAME, "--json").stdout)
    assert lease["ip"] in str(status["nics"][0]["ip"])


def test_the_script_has_logged_in_and_ssh_gets_in_by_the_forward(stage: Stage) -> None:
    """It is an installed system: systemd runs it, the root file system is on its disk."""
    assert ssh(stage, "cat /proc/1/comm /etc/hostname; findmnt -no SOURCE /").split() == ["systemd", NAME, "/dev/vda1"]
    until(lambda: ssh(stage, "systemctl is-system-running || true").strip() != "starting", "it has started")
    assert ssh(stage, "systemctl --failed --no-legend") == ""


def test_exec_runs_a_command_as_if_it_ran_here(stage: Stage) -> None:
    """By the agent that systemd has started: output, errors and status apart, and every byte that there is."""
    line = 'cat /proc/1/comm; pwd; id -un; printf %s "$1" >&2; exit 7'
    done = execute(stage, "bash", "-c", line, "bash", "it's $HOME\n*")
    assert done == (7, b"systemd\n/root\nroot\n", b"it's $HOME\n*")
    every = bytes(range(256)) * 300
    assert execute(stage, "cat", stdin=every) == (0, every, b"")
    assert execute(stage, "no-such-command")[0] == 127
    assert execute(stage, "systemctl", "is-active", "qemunet-agent") == (0, b"active\n", b"")


def test_commands_at_once_each_have_their_own(stage: Stage) -> None:
    """Their input, their output and their status."""
    texts = [random.Random(number).randbytes(20_000) for number in range(4)]
    line = 'cat; echo "$0" >&2; exit "$0"'
    begun = [begin(stage, NAME, "--", "sh", "-c", line, str(number)) for number in range(4)]
    done = [one.communicate(text, timeout=LONG) for one, text in zip(begun, texts, strict=True)]
    assert done == [(text, f"{number}\n".encode()) for number, text in enumerate(texts)]
    assert [one.returncode for one in begun] == list(range(4))


def test_a_time_limit_ends_a_command_and_all_that_it_has_started(stage: Stage) -> None:
    with begin(stage, "--timeout", "4s", NAME, "--", "sh", "-c", "sleep 98765 & wait") as asked:
        told = asked.communicate(timeout=LONG)[1].decode()
    assert (asked.returncode, told) == (124, f"error: vm.{NAME}: the command was killed after 4 s\n")
    look = "grep -zqsx '9876[5]' /proc/[0-9]*/cmdline"  # its own words are others
    until(lambda: execute(stage, "sh", "-c", look)[0] != 0, "what it has started has ended")


def test_files_are_copied_in_and_out(stage: Stage, tmp_path: Path) -> None:
    """With their permissions; a directory with all that is in it."""
    data = random.Random(5).randbytes(100_000)
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/tool").write_bytes(data)
    (tmp_path / "in/sub/tool").chmod(0o751)
    (tmp_path / "in/link").symlink_to("sub/tool")
    stage.succeeds("cp", str(tmp_path / "in/sub/tool"), f"{NAME}:/usr/local/bin/")
    assert execute(stage, "stat", "-c", "%a %s %U", "/usr/local/bin/tool") == (0, b"751 100000 root\n", b"")
    stage.succeeds("cp", f"{NAME}:/usr/local/bin/tool", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o751
    stage.succeeds("cp", "-r", str(tmp_path / "in"), f"{NAME}:/var/tmp/kept")
    stage.succeeds("cp", "-r", f"{NAME}:/var/tmp/kept", str(tmp_path / "out"))
    assert (tmp_path / "out/link").readlink() == Path("sub/tool")
    assert (tmp_path / "out/sub/tool").read_bytes() == data


def test_an_agent_that_has_ended_is_started_again(stage: Stage) -> None:
    """Whoever it was at work for is told, and the next one is served."""
    with begin(stage, NAME, "--", "sh", "-c", "systemctl kill --signal=KILL qemunet-agent; sleep 1000") as asked:
        told = asked.communicate(timeout=LONG)[1].decode()
    assert asked.returncode == 125, told
    assert execute(stage, "echo", "back") == (0, b"back\n", b"")


def test_a_card_that_is_plugged_in_gets_a_lease_as_well(stage: Stage) -> None:
    """The system finds it, names it and asks for an address."""
    card = stage.add(NAME, "--network", "lan")

    def lent() -> bool:
        found = json.loads(stage.succeeds("net", "leases", "--json").stdout)
        return any(one["mac"] == card["mac"] for one in found)

    until(lent, "the second card has an address")
    stage.remove(NAME, card["id"])


def test_it_shuts_down_when_the_button_is_pressed(stage: Stage) -> None:
    """By itself and in order, as its last words tell."""
    with (stage.scene.runtime / "vm" / NAME / "console.log").open(errors="replace") as log:
        said = patiently(stage, "down", "office", "--timeout", "200s")
        assert "Power down" in log.read()
    assert said == [f"{NAME}: stopping", f"{NAME}: ended (powered off)"]


QEMUS = f"""
[lab]
name = "other"

[vm.{NAME}]
memory = "256M"
accel = "tcg"
agent = "qemu"
nic = []
disk = [{{ file = "{NAME}.qcow2" }}]
"""


def test_exec_and_cp_go_by_the_agent_of_qemu_as_well(stage: Stage, tmp_path: Path) -> None:
    """The same disk in another lab, with the package that Debian has for that; ours has no port and is not started."""
    patiently(stage, "up", str(stage.scene.write(QEMUS)))
    every = bytes(range(256))
    with begin(stage, "--wait", "400s", NAME, "--", "sh", "-c", "cat; echo err >&2; exit 3") as asked:
        assert asked.communicate(every, timeout=PATIENCE) == (every, b"err\n")
    assert asked.returncode == 3
    (tmp_path / "there").write_bytes(random.Random(6).randbytes(50_000))
    stage.succeeds("cp", str(tmp_path / "there"), f"{NAME}:/var/tmp/by-qemu")
    stage.succeeds("cp", f"{NAME}:/var/tmp/by-qemu", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()
    assert execute(stage, "systemctl", "is-active", "qemunet-agent") == (3, b"inactive\n", b"")
    assert patiently(stage, "down", "other", "--timeout", "200s")[-1] == f"{NAME}: ended (powered off)"
