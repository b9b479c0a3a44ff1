"""The host on which the reading tests resolve their labs: a few interfaces, files and users."""

from __future__ import annotations

from qemunet.config import profiles, read, resolve
from qemunet.facts import Facts, FileFact, GuestFact, LinkFact
from qemunet.frozen import replace
from qemunet.model.lab import Lab

FILE = "/lab/lab.toml"
GUEST = GuestFact("/cache/vmlinuz", "/cache/initrd.img", "console=ttyS0 quiet")


def file(name: str, **more: object) -> FileFact:
    """A readable file in the lab's directory."""
    return replace(FileFact(f"/lab/{name}", 4096, regular=True, readable=True, executable=False), **more)  # type: ignore[arg-type]


def qcow2(name: str, backing: str | None = None, **more: object) -> FileFact:
    """A qcow2 image in the lab's directory, maybe on another."""
    return file(name, qcow2=True, backing=backing and f"/lab/{backing}", **more)


FILES = (
    replace(file(""), path="/lab", regular=False, directory=True),
    file("vmlinuz"),
    file("initrd.img"),
    file("raw.img"),
    file("looks-qcow2.img", qcow2=True),
    file("plain"),
    file("cd.iso"),
    file("up.sh", executable=True),
    file("dir", regular=False, directory=True, executable=True),
    file("secret", readable=False),
    qcow2("base.qcow2"),
    qcow2("over.qcow2", "base.qcow2", backing_format="qcow2"),
    qcow2("third.qcow2", "over.qcow2"),
    qcow2("evil.qcow2", "secret", backing_format="raw"),
    qcow2("lost.qcow2", "gone.qcow2"),
    qcow2("loop.qcow2", "pool.qcow2"),
    qcow2("pool.qcow2", "loop.qcow2"),
    qcow2("onvmdk.qcow2", "raw.img", backing_format="vmdk"),
)
LINKS = (
    LinkFact(2, "eth1", "", "52:54:00:aa:00:01", 1500, up=True, altnames=("enp1s0",)),
    LinkFact(3, "eth2", "", "52:54:00:aa:00:02", 1500, up=False, master="br0"),
    LinkFact(4, "br0", "bridge", "52:54:00:aa:00:03", 1500, up=True),
    LinkFact(5, "br9", "bridge", "52:54:00:aa:00:04", 9000, up=True),
    LinkFact(6, "eth9", "", "52:54:00:aa:00:05", 9000, up=True),
)
FACTS = Facts(
    runtime="/run/qemunet",
    machine_id="0123",
    uid=0,
    can_switch_user=True,
    links={link.name: link for link in LINKS},
    files={fact.path: fact for fact in FILES},
    programs={
        "qemu-system-x86_64": "/usr/bin/qemu-system-x86_64",
        "qemu-img": "/usr/bin/qemu-img",
        "nft": "/usr/sbin/nft",
    },
    users={"root": (0, 0), "sara": (1001, 1002)},
    guest=GUEST,
)


def lab(text: str, facts: Facts = FACTS, *vms: str, strict: bool = True) -> Lab:
    """Read and resolve a lab file."""
    spec = read.loads(text, FILE)
    return resolve.resolve(spec, profiles.load_all(spec), facts, vms, strict=strict)
