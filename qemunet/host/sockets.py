"""Opens sockets that QEMU gets, and tells who has an address or that nobody is at it.

QEMU 7.2 would listen and connect in the background, and say nothing if it cannot; it may also be a user who may not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import time
import typing

from qemunet import interrupts
from qemunet.errors import HostLacks, Taken
from qemunet.facts import SocketFact
from qemunet.host.links import Vanished
from qemunet.steps.sockets import UNIX

if typing.TYPE_CHECKING:
    from qemunet.steps import OpenSocket, RemoveSocket

CONNECT = 10.0  # seconds that a connection may take
_GLANCE = 100  # milliseconds
_NOBODY = (errno.ECONNREFUSED, errno.ENOENT, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTSOCK)


def open_socket(step: OpenSocket) -> int:
    """Open what a step wants, in the place where this thread is; return the descriptor.

    Raises Taken if somebody has the address, HostLacks if there is no such one, or nobody at it, and OSError.
    """
    family, here, there = _resolved(step)
    sock = socket.socket(family, socket.SOCK_DGRAM if step.datagram else socket.SOCK_STREAM)
    try:
        if here is not None:
            _bind(sock, here, step)
        if there is not None:
            _connect(sock, there, step)
        elif not step.datagram:
            sock.listen(1)
        return sock.detach()
    except BaseException:
        sock.close()
        raise


def remove(step: RemoveSocket, *, in_use: bool) -> None:
    """Remove a socket at which nobody listens; raises Vanished if there is none such.

    `in_use`: the guest runs whose it was; whoever answers is its QEMU then, and OSError is raised.
    """
    try:
        if in_use and is_answered(step.path):
            raise OSError(errno.EBUSY, f"QEMU listens at {step.path} yet")
        if not stat.S_ISSOCK(os.lstat(step.path).st_mode) or is_answered(step.path):
            raise Vanished(errno.ENOENT, f"{step.path} is somebody else's by now")
        os.unlink(step.path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Vanished(*error.args) from error


def visit(fd: int, stack: contextlib.ExitStack) -> None:
    """Connect to a socket of ours, if it is one that listens, until the `stack` ends; QEMU accepts that, or others."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return
        visitor = stack.enter_context(socket.socket(sock.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        with contextlib.suppress(BlockingIOError):
            visitor.connect(sock.getsockname())


def look_at(path: str, *, knock: bool = True) -> SocketFact | None:
    """Return what is known of a socket in the file system, None if there is none.

    Whether somebody listens is found out by connecting; without a `knock`, at a program that serves one, it is assumed.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    above, folder = [], os.path.dirname(os.path.abspath(path))
    while folder not in above:
        above.append(folder)
        folder = os.path.dirname(folder)
    passable = all(os.stat(one).st_mode & stat.S_IXOTH for one in above)
    mode = stat.S_IMODE(found.st_mode)
    return SocketFact(path, not knock or is_answered(path), found.st_uid, found.st_gid, mode, passable)


def is_answered(path: str) -> bool:
    """Tell whether somebody listens at a socket in the file system."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        return sock.connect_ex(path) not in _NOBODY


def _resolved(step: OpenSocket) -> tuple[int, object, object]:
    """Return the family, and the addresses as socket(7) wants them."""
    if (step.listen or step.connect).startswith(UNIX):
        return socket.AF_UNIX, step.listen.removeprefix(UNIX) or None, step.connect.removeprefix(UNIX) or None
    known = [_looked_up(text, step) if text else {} for text in (step.listen, step.connect)]
    common = set.intersection(*(set(one) for one in known if one))
    if not common:
        raise _lacks(step, f"{step.listen} and {step.connect} of one family (IPv4 or IPv6)")
    family = min(common)  # IPv4, if there is a choice
    return family, known[0].get(family), known[1].get(family)


def _looked_up(text: str, step: OpenSocket) -> dict[int, object]:
    host, _, port = text.rpartition(":")
    name, kind = host.strip("[]") or None, socket.SOCK_STREAM  # the same for all kinds
    try:
        found = socket.getaddrinfo(name, int(port), type=kind, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise _lacks(step, f"a host {host} ({error.strerror})") from error
    return {int(family): address for family, _, _, _, address in reversed(found)}


def _lacks(step: OpenSocket, what: str, hint: str = "") -> HostLacks:
    return HostLacks([f"{what}, for {step.where}"], hint=hint)


def _bind(sock: socket.socket, address: object, step: OpenSocket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, not step.datagram)
    try:
        sock.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        raise _not_bound(step, error) from error


def _not_bound(step: OpenSocket, error: OSError) -> Exception:
    path = step.listen.removeprefix(UNIX)
    match error.errno:
        case errno.EADDRINUSE if path != step.listen and not is_answered(path):
            hint = f"if it is what somebody has left: rm {path}"
            return Taken(f"{path} is there already, and nobody listens at it", where=step.where, hint=hint)
        case errno.EADDRINUSE:
            return Taken(f"{step.listen} is in use by {_holder(step)}", where=step.where, hint="choose another one")
        case errno.EADDRNOTAVAIL:
            hint = "`ip address` lists those there are; none in front of the colon is all of them"
            return _lacks(step, f"an interface with the address of {step.listen}", hint)
        case errno.ENOENT | errno.ENOTDIR:
            return _lacks(step, f"the directory {os.path.dirname(path)}")
        case errno.EACCES:
            return _lacks(step, f"the right to listen at {step.listen}")
    return error


def _holder(step: OpenSocket) -> str:
    if step.listen.startswith(UNIX):
        return "somebody"
    from qemunet.host import complaints

    host, _, port = step.listen.rpartition(":")
    found = complaints.listeners("udp" if step.datagram else "tcp", host.strip("[]"), int(port), int(port))
    return next((who for _, who in found), "somebody")


def _connect(sock: socket.socket, address: object, step: OpenSocket) -> None:
    """Connect, as long as the deadline has not come and nobody interrupts."""
    sock.settimeout(0)
    try:
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)  # type: ignore[arg-type]
        _await(sock)
    except OSError as error:
        if error.errno not in _NOBODY:
            raise
        what = f"somebody who listens at {step.connect} ({os.strerror(error.errno)})"
        raise _lacks(step, what, "start the other side first") from error


def _await(sock: socket.socket) -> None:
    deadline, poll = time.monotonic() + CONNECT, select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(_GLANCE):
        interrupts.check()
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer in {CONNECT:g} s")
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))
