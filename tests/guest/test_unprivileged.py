"""Files that only root may read reach a guest whose QEMU is nobody, and an ordinary user needs no right at all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.guest import image
from tests.dump import dump, left_behind
from tests.guest.scene import BOOT, TREE, Guest, Peer, Scene, ip, join, wait_for
from tests.images import qcow2

pytestmark = pytest.mark.guest

SECRET = b"SECRET-OF-ROOT"
USER = 1234


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may look into; where pytest keeps its own, nobody but its user may."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="qemunet-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# ---------------------------------------------------------------- root's files

LAB = """
[vm.one]
memory = "128M"
accel = "tcg"
[vm.one.boot]
kernel = "safe/vmlinux"
initrd = "safe/initrd"
append = "{append}"
[[vm.one.disk]]
file = "safe/raw.img"
[[vm.one.disk]]
file = "safe/top.qcow2"
backing = ["safe/middle.qcow2", "safe/base.img"]
[[vm.one.disk]]
file = "safe/attack.img"
[[vm.one.disk]]
file = "safe/readonly.img"
readonly = true
[[vm.one.disk]]
file = "safe/discarded.img"
snapshot = true
"""


def fill(safe: Path) -> None:
    """Make every kind of disk, and copies of the built-in guest, that only root may read."""
    built = image.build(print)
    safe.mkdir(mode=0o700)
    shutil.copy(built.kernel, safe / "vmlinux")
    shutil.copy(built.initrd, safe / "initrd")
    for name in ("raw", "base", "readonly", "discarded"):
        (safe / f"{name}.img").write_bytes(name.encode().ljust(1 << 20, b"."))
    (safe / "secret.img").write_bytes(SECRET.ljust(1 << 20, b"!"))
    qcow2(safe / "middle.qcow2", b"base.img", b"raw")
    qcow2(safe / "top.qcow2", b"middle.qcow2", b"qcow2")
    qcow2(safe / "attack.qcow2", str(safe / "secret.img").encode(), b"raw").rename(safe / "attack.img")
    for file in safe.iterdir():
        file.chmod(0o600)


def test_files_of_root_reach_a_guest_whose_qemu_may_not_open_them(scene: Scene, unchanged: None) -> None:
    """Kernel, initrd and disks of mode 0600 in a directory of mode 0700; what the guest writes is in the very files.

    And a raw disk into which somebody wrote a header that names a secret shows that header, and no secret.
    """
    safe = scene.folder / "safe"
    fill(safe)
    inodes = {file.name: file.stat().st_ino for file in safe.iterdir()}
    with scene.lab(LAB.format(append=image.build(print).append)) as guests:
        one = guests["one"]

        def reads(disk: str, count: int = 8) -> str:
            return one.succeeds(f"head -c {count} /dev/{disk}")

        assert reads("vda", 3) == "raw"
        assert reads("vdb", 4) == "base"
        assert reads("vdc", 3) == "QFI"
        assert reads("vdd") == "readonly"
        assert reads("vde", 9) == "discarded"
        one.fails(f"cat /dev/vd[a-e] | grep -q {SECRET.decode()}")
        one.succeeds("for d in a b e; do printf written | dd of=/dev/vd$d conv=notrunc,fsync; done")
        one.fails("printf written | dd of=/dev/vdd conv=notrunc,fsync")
        assert reads("vdb", 7) == "written"
        assert reads("vde", 7) == "written"
    found = {file.name: file.read_bytes()[:7] for file in safe.glob("*.img")}
    assert found["raw.img"] == b"written"
    assert (found["base.img"][:4], found["readonly.img"], found["discarded.img"]) == (b"base", b"readonl", b"discard")
    assert b"written" in (safe / "top.qcow2").read_bytes()
    assert inodes == {file.name: file.stat().st_ino for file in safe.iterdir()}


# ---------------------------------------------------------------- an ordinary user


class Ordinary:
    """qemunet as an ordinary user has it, in a tree that he may read, with a runtime directory as systemd gives it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name in ("qemunet", "profiles"):
            shutil.copytree(TREE / name, place / name)
        for name in ("home", "xdg"):
            (place / name).mkdir(mode=0o700)
            os.chown(place / name, USER, USER)
        libraries = [path for path in sys.path if path.endswith("site-packages")]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place / "home"),
            "XDG_RUNTIME_DIR": str(place / "xdg"),
            "PYTHONPATH": os.pathsep.join([str(place), *libraries]),
        }
        self.runtime = place / "xdg" / "qemunet"

    def command(self, *words: str) -> list[str]:
        python = str(Path(sys.executable).resolve())
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", python, "-m", "qemunet", *words]

    def qemunet(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*before, *self.command(*words)]
        done = subprocess.run(
            argv,
            env=self.environment,
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=BOOT,
            stdin=subprocess.DEVNULL,
        )
        assert "Traceback" not in done.stderr
        return done

    def guest(self, name: str) -> Guest:
        scene = Scene(self.place)
        scene.runtime = self.runtime
        return scene.guest(name)

    def write(self, text: str) -> str:
        (self.place / "lab.toml").write_text(text)
        return str(self.place / "lab.toml")


@pytest.fixture
def ordinary(scene: Scene, open_place: Path) -> Iterator[Ordinary]:
    one = Ordinary(open_place)
    program = subprocess.run(one.command("--version"), env=one.environment, capture_output=True, text=True)
    if program.returncode:
        pytest.skip(f"an ordinary user cannot run this Python: {program.stderr.strip().splitlines()[-1]}")
    before = dump(open_place / "xdg")
    yield one
    found = left_behind(before, open_place / "xdg")
    assert not found, found


USER_MODE = """
[vm.one]
memory = "128M"
boot.guest = "tiny"
[[vm.one.nic]]
mode = "user"
forward = ["tcp:127.0.0.1:5556:22"]
"""
TAP = """
[network.lab]
mode = "private"
[vm.one]
[[vm.one.nic]]
network = "lab"
"""


def test_an_ordinary_user_runs_a_guest_in_user_mode(ordinary: Ordinary) -> None:
    """Address by DHCP, a forwarded port, the tables, the stop; QEMU is himself, in its sandbox."""
    file = ordinary.write(USER_MODE)
    for words in (("check", file), ("plan", file)):
        assert ordinary.qemunet(*words).returncode == 0
    done = ordinary.qemunet("run", "-d", file)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "accel" in line]
    closed = not os.access("/dev/kvm", os.F_OK) or os.stat("/dev/kvm").st_mode & 0o006 != 0o006
    assert not closed or (len(told) == 1 and told[0].startswith("accel: tcg, for KVM")), done.stderr
    (vm,) = json.loads(ordinary.qemunet("ps", "--json").stdout)
    assert (vm["name"], vm["state"]) == ("one", "running")
    status = Path(f"/proc/{vm['pid']}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status
    assert "Seccomp:\t2\n" in status
    guest = ordinary.guest("one")
    guest.await_ready()
    guest.wait_until("ip -4 address show dev eth0 | grep -q 10.0.2.15/24")
    guest.succeeds("(echo hello from $(hostname) | nc -l -p 22 &) ; sleep 0.2")
    with socket.create_connection(("127.0.0.1", 5556), timeout=20) as client:
        client.settimeout(20)
        assert client.makefile().readline() == "hello from one\n"
    guest.close()
    assert ordinary.runtime.stat().st_mode & 0o777 == 0o700
    stopped = ordinary.qemunet("stop", "--force", "one")
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture
def way_out(scene: Scene) -> Iterator[Peer]:
    """A host 192.0.2.1, which is the way out of this one."""
    if shutil.which("passt") is None:
        pytest.skip("there is no passt")
    with Peer() as peer:
        join(peer, "ext0", "out0")
        Path("/proc/sys/net/ipv6/conf/ext0/disable_ipv6").write_text("1")
        ip("address", "add", "192.0.2.10/24", "dev", "ext0")
        ip("route", "add", "default", "via", "192.0.2.1")
        peer.run("ip", "address", "add", "192.0.2.1/24", "dev", "out0")
        yield peer
        ip("link", "del", "ext0")


def test_an_ordinary_user_has_a_guest_on_the_hosts_network_by_passt(ordinary: Ordinary, way_out: Peer) -> None:
    """Who forwards a port to it; the passt is his own process, and is gone with the guest."""
    file = ordinary.write(USER_MODE.replace('"user"', '"passt"').replace("5556:22", "5557:8080"))
    done = ordinary.qemunet("run", "-d", file)
    assert done.returncode == 0, done.stderr
    (file_of_pid,) = (ordinary.runtime / "vm" / "one").glob("passt-*.pid")
    status = Path(f"/proc/{file_of_pid.read_text().strip()}/status")
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status.read_text()
    guest = ordinary.guest("one")
    guest.await_ready()
    guest.wait_until("ip -4 address show dev eth0 | grep -q 192.0.2.10/24")
    guest.succeeds("echo hello from inside >/tmp/page; httpd -p 8080 -h /tmp")
    with urllib.request.urlopen("http://127.0.0.1:5557/page", timeout=20) as page:
        assert page.read() == b"hello from inside\n"
    guest.close()
    stopped = ordinary.qemunet("stop", "--force", "one")
    assert stopped.returncode == 0, stopped.stderr
    wait_for(lambda: not status.exists())


def test_an_ordinary_user_can_plan_what_he_may_not_run(ordinary: Ordinary) -> None:
    """And hears what he lacks, all at once, and what to do."""
    file = ordinary.write(TAP)
    assert "open tap qn-one-net0 on qn-lab" in ordinary.qemunet("plan", file).stdout
    assert ordinary.qemunet("check", file).returncode == 0
    done = ordinary.qemunet("run", "-d", file)
    assert done.returncode == 3
    assert "you are not root" in done.stderr
    assert "sudo" in done.stderr.partition("hint")[2]
    assert 'mode = "user"' in done.stderr.partition("hint")[2]


def test_an_ordinary_user_hears_that_root_has_a_world_of_its_own(ordinary: Ordinary) -> None:
    script = 'mount -t tmpfs -o mode=755 none /run && mkdir -m 700 /run/qemunet && exec "$@"'
    done = ordinary.qemunet("ps", before=("unshare", "--mount", "sh", "-c", script, "sh"))
    assert done.returncode == 0, done.stderr
    assert "sudo qemunet ps" in done.stderr
    assert ordinary.qemunet("ps").stderr == ""


def test_an_ordinary_user_cannot_look_into_the_directory_of_another(ordinary: Ordinary, scene: Scene) -> None:
    """Nor does he leave anything there, or a traceback."""
    for place in (scene.folder / "run", Path("/root/qemunet"), ordinary.place):
        ordinary.environment["QEMUNET_RUNTIME_DIR"] = str(place)
        for words in (("run", "-d", ordinary.write(USER_MODE)), ("gc",), ("stop", "one")):
            done = ordinary.qemunet(*words)
            assert done.returncode in (1, 4), (words, done.stderr)
            assert str(place) in done.stderr


@pytest.mark.parametrize("key", ["kernel", "initrd", "disk"])
def test_an_ordinary_user_is_told_which_file_he_may_not_read(ordinary: Ordinary, key: str) -> None:
    secret = ordinary.place / "secret.img"
    secret.write_bytes(bytes(1 << 16))
    secret.chmod(0o600)
    boot = {"kernel": f'boot.kernel = "{secret}"', "initrd": f'boot.kernel = "lab.toml"\nboot.initrd = "{secret}"'}
    disk = f'[[vm.one.disk]]\nfile = "{secret}"\n' if key == "disk" else ""
    done = ordinary.qemunet("run", "-d", ordinary.write(f"[vm.one]\n{boot.get(key, '')}\n{disk}"))
    assert done.returncode == 2, done.stderr
    assert f"{secret} cannot be read" in done.stderr
