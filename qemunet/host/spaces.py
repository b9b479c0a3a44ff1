"""Makes network namespaces that stay without anybody in them, shows them to `ip netns`, and lets go of them.

A namespace is held by nothing but bind mounts of its files (namespaces(7)), which outlive whoever made them: one in the
runtime directory, for its network and for its host name, and one more in /run/netns if `ip netns` is to see it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import typing

from qemunet.errors import Taken, TimedOut
from qemunet.host import links, netns, processes
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished
from qemunet.steps import AddNetns, DelNetns, NameNetns, SetLink, UnnameNetns

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

NAMED = "/run/netns"  # where ip-netns(8) looks
_CLONE_NEWNET, _CLONE_NEWUTS = 0x40000000, 0x04000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH, _NOFOLLOW = 2, 8
_KINDS = ("net", "uts")
_MADE_HERE = 0o1755  # the sticky bit says so
_PATIENCE, _DYING = 2.0, 30.0  # seconds for what runs in a namespace to end when it is asked to, and when it is killed


def path(runtime: str, name: str, kind: str = "net") -> str:
    """Return the file of a namespace: of its network, or of its host name (``uts``)."""
    return f"{runtime}/netns/{name}/{kind}"


def named(name: str) -> str:
    """Return where ``ip netns`` finds it."""
    return f"{NAMED}/{name}"


def is_there(runtime: str, name: str) -> bool:
    """Tell whether a namespace is there: its file may be left, without being one."""
    return _is_mounted(path(runtime, name))


def perform(step: AddNetns | DelNetns | NameNetns | UnnameNetns, runtime: str) -> None:
    """Do a step about a namespace; raises as what it comes to."""
    match step:
        case AddNetns():
            make(step, runtime)
        case DelNetns():
            delete(step.name, runtime)
        case NameNetns():
            show(step.name, runtime)
        case UnnameNetns():
            hide(step.name, runtime)
        case _:
            typing.assert_never(step)


def make(step: AddNetns, runtime: str) -> None:
    """Make a namespace, with lo up. Raises Taken if it is there."""
    if is_there(runtime, step.name):
        raise Taken(f"the namespace {step.name} is there already")
    for kind in _KINDS:
        os.close(os.open(path(runtime, step.name, kind), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    netns.in_thread(lambda: _be(step, runtime))


def _be(step: AddNetns, runtime: str) -> None:
    """Be in the new namespace, in a thread that ends with this, and leave mounts of it."""
    netns.call("unshare", _CLONE_NEWNET | _CLONE_NEWUTS)
    socket.sethostname(step.hostname)
    net = nl.Netlink(nl.open_socket())
    try:
        links.change(net, SetLink("lo", up=True))
    finally:
        net.close()
    for kind in reversed(_KINDS):  # the network is the last: with it, it is there
        _bind(f"/proc/thread-self/ns/{kind}", path(runtime, step.name, kind))


def delete(name: str, runtime: str) -> None:
    """End what runs under the host name of a namespace, and let go of it; raises Vanished if there is none."""
    files = [path(runtime, name, kind) for kind in _KINDS]
    if not any(map(os.path.lexists, files)):
        raise Vanished(errno.ENOENT, f"there is no namespace {name}")
    if _is_mounted(files[1]):
        _end_all(os.stat(files[1]).st_ino)
    for file in files:
        _let_go(file)


# ---------------------------------------------------------------- for ip-netns(8)


def show(name: str, runtime: str) -> None:
    """Let ``ip netns`` see a namespace, in this mount namespace and in those that follow it. Raises Taken."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(NAMED, _MADE_HERE)
    if not _is_mount_point(NAMED):  # as ip does: a mount in one that is not shared would be hidden below ip's own
        netns.call("mount", NAMED.encode(), NAMED.encode(), b"none", _MS_BIND | _MS_REC, None)
    netns.call("mount", b"", NAMED.encode(), b"none", _MS_SHARED | _MS_REC, None)
    try:
        os.close(os.open(named(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError:
        raise Taken(f"ip netns has a namespace {name} already", hint="`ip netns` lists them") from None
    _bind(path(runtime, name), named(name))


def hide(name: str, runtime: str) -> None:
    """Take the name from ``ip netns`` again, if it is still that of our namespace; raises Vanished."""
    ours = os.path.lexists(named(name)) and _is_ours(name, runtime)
    if ours:
        _let_go(named(name))
    _tidy()
    if not ours:
        raise Vanished(errno.ENOENT, f"ip netns shows no {name} of ours")


def _tidy() -> None:
    """Remove the directory if it was made here, and nobody has a namespace there."""
    with contextlib.suppress(OSError):
        if os.stat(NAMED).st_mode & stat.S_ISVTX and not os.listdir(NAMED):
            while _is_mount_point(NAMED):
                netns.call("umount2", NAMED.encode(), _NOFOLLOW)
            os.rmdir(NAMED)


def _is_ours(name: str, runtime: str) -> bool:
    """Tell whether a name stands for our namespace, or for none: we were killed before we gave it one."""
    if not _is_mounted(named(name)):
        return True
    return is_there(runtime, name) and os.path.samefile(named(name), path(runtime, name))


# ---------------------------------------------------------------- inside of one


def place(runtime: str, name: str | None) -> netns.Place:
    """Return where the interfaces of a namespace are, or the host's own; entering one that is gone raises OSError."""
    return netns.Namespace(path(runtime, name)) if name else netns.Place()


@contextlib.contextmanager
def opened(runtime: str, name: str) -> Iterator[int]:
    """Yield a descriptor of a namespace's network; raises Vanished if there is none."""
    if not is_there(runtime, name):
        raise Vanished(errno.ENOENT, f"there is no namespace {name}")
    fd = os.open(path(runtime, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _end_all(uts: int) -> None:
    """End the processes whose host name is that of a namespace."""
    with contextlib.ExitStack() as stack:
        endings = []
        for pid in processes.all_pids():
            if _uts(pid) == uts:
                with contextlib.suppress(ProcessLookupError):
                    endings.append(stack.enter_context(processes.Ending(pid)))
        for ending in endings:
            ending.ask()
        for ending in endings:
            _await(ending)


def _await(ending: processes.Ending) -> None:
    try:
        ending.wait(_PATIENCE)
    except TimedOut:
        ending.kill()
        ending.wait(_DYING)


def _uts(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/uts").st_ino
    except OSError:
        return None


def _is_mounted(file: str) -> bool:
    """Tell whether a file is not what lies there, but a namespace; an overlay's files differ from its directories."""
    try:
        return os.stat(file).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def _is_mount_point(folder: str) -> bool:
    """Tell whether something is mounted on a directory, if only that itself (proc_pid_mountinfo(5))."""
    with open("/proc/thread-self/mountinfo", "rb") as file:
        return any(line.split()[4] == folder.encode() for line in file)


def _bind(source: str, target: str) -> None:
    netns.call("mount", source.encode(), target.encode(), b"none", _MS_BIND, None)


def _let_go(file: str) -> None:
    """Unmount a file however often it is mounted, and remove it."""
    while _is_mounted(file):
        netns.call("umount2", file.encode(), _MNT_DETACH | _NOFOLLOW)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)
