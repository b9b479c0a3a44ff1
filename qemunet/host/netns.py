"""A place to act in: a network namespace, entered by a throwaway thread, and file systems that only we see."""

from __future__ import annotations

import contextlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same numbers on every architecture
_CLOEXEC, _CMD_CREATE = 1, 6


class Place:
    """Where links, taps and network sysctls are: the network namespace of this process."""

    def inside(self, action: Callable[[], T]) -> T:
        """Run `action` there and return its result. Sockets, tun devices and programs it opens stay there."""
        return action()


class Namespace(Place):
    """Another network namespace, by a path such as ``/run/netns/sw1`` or ``/proc/PID/ns/net``."""

    def __init__(self, path: str) -> None:
        self.path = path

    def inside(self, action: Callable[[], T]) -> T:
        return in_thread(lambda: self._entered(action))

    def _entered(self, action: Callable[[], T]) -> T:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc().setns(fd, _CLONE_NEWNET))
        finally:
            os.close(fd)
        return action()


def in_thread(action: Callable[[], T]) -> T:
    """Run `action` in a thread that ends with it: what it does to its own namespace or identity touches nobody else."""
    from threading import Thread

    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=body, name="qemunet-place")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def in_fresh_namespace(action: Callable[[], T]) -> T:
    """Run `action` in a network namespace of its own, with nothing but a loopback; raises OSError if none can be made.

    The namespace goes with the last socket that `action` opens in it.
    """

    def entered() -> T:
        _checked(_libc().unshare(_CLONE_NEWNET))
        return action()

    return in_thread(entered)


@contextlib.contextmanager
def private_filesystem(kind: str) -> Iterator[int]:
    """Mount a ``sysfs`` or ``tmpfs`` that is attached nowhere; yield a descriptor of its root.

    Nobody else can see it, and it is gone with the descriptor, whoever is killed. A sysfs shows the network namespace
    of the calling thread, while the one that is mounted on /sys may belong to another.
    """
    libc = _libc()
    context = _checked(libc.syscall(_FSOPEN, kind.encode(), _CLOEXEC))
    try:
        _checked(libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0))
        root = _checked(libc.syscall(_FSMOUNT, context, _CLOEXEC, 0))
    finally:
        os.close(context)
    try:
        yield root
    finally:
        os.close(root)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library that Python does not have; raises OSError."""
    return _checked(getattr(_libc(), name)(*arguments))


def macvtap_device(interface: str) -> int:
    """Return the device number of a macvtap in the calling thread's namespace; raises FileNotFoundError."""
    with private_filesystem("sysfs") as root:
        directory = os.open(f"class/net/{interface}/macvtap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
        try:
            (node,) = os.listdir(directory)
            fd = os.open(f"{node}/dev", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        with open(fd) as file:
            major, minor = file.read().split(":")
    return os.makedev(int(major), int(minor))


def open_device(device: int, flags: int) -> int:
    """Open the character device of that number through a node that nobody else can see.

    A node in /dev may stand for something else (``/dev/tap5`` for the macvtap of another namespace), and a directory
    on disk is often mounted without devices.
    """
    with private_filesystem("tmpfs") as root:
        os.mknod("device", 0o600 | stat.S_IFCHR, device, dir_fd=root)
        return os.open("device", flags | os.O_CLOEXEC, dir_fd=root)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        import ctypes

        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
