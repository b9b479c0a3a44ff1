"""A Debian installed into a disk image: mmdebstrap installs it, GRUB boots it, systemd starts it; kept in the cache.

The disk has a boot record and one ext4 partition, and nothing has to be mounted for that: mke2fs fills the file system
from a directory, and GRUB's core, which finds the kernel there, lies in the gap before the partition. Our agent is
installed by the book: what `qemunet guest agent` prints, and the unit that docs/exec.md shows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from qemunet.errors import HostLacks
from qemunet.guest.image import own_cache

NAME = "box"
PASSWORD = "quite secret"
PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "grub-pc-bin"),
    *("systemd-sysv", "udev", "dbus", "libpam-systemd", "iproute2"),
    *("dropbear-bin", "qemu-guest-agent"),
)
STORE = "disk-guest-"  # begins the names of directories in the cache
DISK = "disk.raw"
SIZE = 640 << 20  # bytes; the file has holes
START = 1 << 20  # bytes before the partition
SECTOR = 512
PATIENCE = 900  # seconds for the installation, of which it needs forty where nobody else has work
BOOT = """linux (hd0,msdos1)/vmlinuz root=/dev/vda1 rw console=ttyS0 quiet cryptomgr.notests no_timer_check
initrd (hd0,msdos1)/initrd.img
boot
"""
GRUB = ("-c", "/boot/early.cfg", "-p", "(hd0,msdos1)/boot", "biosdisk", "part_msdos", "ext2", "linux")
FILES = {  # before the installation: what Debian makes of the kernel is small, and boots no other machine
    "etc/initramfs-tools/conf.d/small": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n",
    "boot/early.cfg": BOOT,
}
SETTINGS = {  # after it
    "etc/hostname": f"{NAME}\n",
    "etc/fstab": "/dev/vda1 / ext4 defaults 0 1\n",
    "etc/systemd/network/cards.network": (
        "[Match]\nName=en*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
    ),
    "etc/systemd/system/ssh.service": (
        "[Unit]\nAfter=network.target\n\n[Service]\nExecStart=/usr/sbin/dropbear -F -E -R\n"
    ),
    "etc/systemd/system.conf.d/patient.conf": (  # on a busy machine a minute and a half is nothing
        "[Manager]\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n"
    ),
    "etc/dropbear/README": "Keys of the host are made when somebody connects.\n",
}
SERVICES = {"systemd-networkd": "/lib/systemd/system", "ssh": "/etc/systemd/system"}
NEEDLESS = ("getty@tty1.service", "e2scrub_reap.service", "systemd-pstore.service", "fstrim.timer", "e2scrub_all.timer")
GUIDE = Path(__file__).parents[2] / "docs/exec.md"
AGENT = "usr/local/sbin/qemunet-agent"
QUIET = ("doc", "man", "locale", "info")  # of what packages bring below /usr/share, nothing that a machine needs

Report = Callable[[str], None]


@contextlib.contextmanager
def built(report: Report) -> Iterator[Path]:
    """The disk, made now if need be (a minute, and a download of some 100 MB); nobody removes it meanwhile.

    The cache holds one: those of other versions that nobody uses are removed when it is made. Raises HostLacks.
    """
    cache = Path(own_cache()).parent
    cache.mkdir(parents=True, exist_ok=True)
    suite, agent = _suite(), agent_files()
    with held(cache, fcntl.LOCK_EX):
        store = cache / f"{STORE}{number(suite, agent)}"
        if not (store / DISK).exists():
            _refuse_lacks()
            remove_others(cache, store)
            report(f"installing Debian {suite} into a disk image")
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{STORE}work-") as work:
                _make(Path(work), suite, agent)
                (Path(work) / "kept").rename(store)
        used = contextlib.ExitStack()
        used.enter_context(held(store, fcntl.LOCK_SH))
    with used:
        yield store / DISK


def agent_files() -> dict[str, str]:
    """Return our agent and its unit as a user has them: printed by the program, and copied from its documentation."""
    shown = re.search(r"```\n((?:\[Unit\]\n[^`]*)?\[Service\]\n[^`]*)```", GUIDE.read_text())
    assert shown, f"{GUIDE} shows no unit"
    printed = _run([sys.executable, "-m", "qemunet", "guest", "agent"])
    return {AGENT: printed, "etc/systemd/system/qemunet-agent.service": shown[1]}


def number(suite: str, agent: dict[str, str]) -> str:
    """Return what tells a disk from those of other versions: all that it is made from has a part in it."""
    return sha256("\n".join([suite, Path(__file__).read_text(), *agent.values()]).encode()).hexdigest()[:8]


def remove_others(cache: Path, store: Path) -> None:
    """Remove the disks of other versions, and what killed makers have left, except for what somebody uses."""
    for other in cache.glob(f"{STORE}*"):
        with contextlib.suppress(BlockingIOError), held(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if other != store:
                shutil.rmtree(other)


@contextlib.contextmanager
def held(folder: Path, how: int) -> Iterator[None]:
    """A lock on a directory, which ends with its holder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def _suite() -> str:
    """Return the name of this Debian's release, which is what is installed."""
    told = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if told.get("ID") != "debian" or "VERSION_CODENAME" not in told:
        raise HostLacks(["Debian, whose packages the guest is installed from"])
    return told["VERSION_CODENAME"]


def _refuse_lacks() -> None:
    lacks = [tool for tool in ("mmdebstrap", "mke2fs", "apt-get") if not shutil.which(tool)]
    if lacks:
        raise HostLacks(lacks, hint="run `apt-get install mmdebstrap e2fsprogs`")


def _make(work: Path, suite: str, agent: dict[str, str]) -> None:
    tree, kept = work / "tree", work / "kept"
    before = work / "before"
    _write(before, FILES)
    _run(_installer(suite, tree, before))
    _write(tree, SETTINGS | agent)
    (tree / AGENT).chmod(0o755)
    _run(["chroot", str(tree), "systemctl", "enable", "qemunet-agent"])
    for name, place in SERVICES.items():
        (tree / f"etc/systemd/system/multi-user.target.wants/{name}.service").symlink_to(f"{place}/{name}.service")
    for unit in NEEDLESS:
        (tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _run(["chroot", str(tree), "chpasswd"], f"root:{PASSWORD}\n")
    _run(["chroot", str(tree), "grub-mkimage", "-O", "i386-pc", "-o", "/boot/core.img", *GRUB])
    kept.mkdir()
    disk = kept / DISK
    options = ["-q", "-t", "ext4", "-d", str(tree), "-E", f"offset={START}"]
    _run(["mke2fs", *options, str(disk), f"{(SIZE - START) >> 10}k"])
    _make_bootable(disk, tree)


def _installer(suite: str, tree: Path, before: Path) -> list[str]:
    """What installs the packages into a directory; /dev is left empty, as the kernel of the guest fills it."""
    return [
        "mmdebstrap",
        *("--variant=essential", "--mode=root", "--quiet", "--skip=output/dev"),
        f"--include={','.join(PACKAGES)}",
        *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"', *_ways_out()),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in QUIET),
        "--dpkgopt=force-unsafe-io",
        f"--setup-hook=copy-in {before}/etc {before}/boot /",
        *(suite, str(tree), _mirror(suite)),
    ]


def _mirror(suite: str) -> str:
    """Return where this machine's apt has its packages from."""
    argv = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    found = [line.split() for line in _run(argv).splitlines()]
    mirrors = [words[2] for words in found if words[:2] == [suite, "main"]]
    if not mirrors:
        raise HostLacks([f"apt's lists of Debian {suite}"], hint="run `apt-get update`")
    return mirrors[0].rstrip("/")


def _ways_out() -> list[str]:
    """Return the proxies and certificates of this machine's apt, for the one that installs."""
    said = _run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"])
    ours = re.compile(r'Acquire::https?::(Proxy\b|CaInfo|SslCert|SslKey|Verify-).* "."?.*"')
    return [f"--aptopt={line.rstrip(';')}" for line in said.splitlines() if ours.match(line) and '""' not in line]


def _make_bootable(disk: Path, tree: Path) -> None:
    """Write the boot record with the table of partitions, and GRUB's core right after it."""
    loader = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
    core = (tree / "boot/core.img").read_bytes()
    assert len(core) <= START - SECTOR, "it has to end before the partition"
    nowhere = b"\xfe\xff\xff"  # cylinders, heads and sectors, which nobody counts in any more
    sectors = (SIZE - START) // SECTOR
    linux = struct.pack("<B3sB3sII", 0x80, nowhere, 0x83, nowhere, START // SECTOR, sectors)
    with disk.open("r+b") as file:
        file.write(loader + bytes(6) + linux + bytes(48) + b"\x55\xaa" + core)
        file.truncate(SIZE)
        file.flush()
        os.fsync(file.fileno())


def _write(base: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _run(argv: Sequence[str], said: str = "") -> str:
    """Run a program of the host's; raises HostLacks with its last words if it fails."""
    done = subprocess.run(argv, input=said, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise HostLacks([f"what it takes for `{argv[0]}` to succeed: {' / '.join(words)}"])
    return done.stdout
