"""A network namespace of its own for the calling process, and the way back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

from tests import forked

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000


def lack() -> str:
    """Why no namespace can be made here, or the empty string."""
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no network namespace can be made: {done.stderr.strip()}"


def ip(words: str) -> None:
    """Run ip(8) in the namespace that the main thread is in."""
    subprocess.run(["ip", *words.split()], check=True)


@contextlib.contextmanager
def fresh_namespace() -> Iterator[None]:
    """Put the main thread, and what it starts, into a new network namespace with lo up."""
    forked.begin()
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(home)


@contextlib.contextmanager
def own_run() -> Iterator[None]:
    """Give the main thread, and what it starts, mounts of its own and an empty /run, where ``ip netns`` writes."""
    forked.begin()
    libc = ctypes.CDLL(None, use_errno=True)
    home, folder = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), os.getcwd()
    try:
        assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
            os.mkdir("/run/mount")  # mount(8) makes it when it first needs it
            yield
        finally:
            assert libc.setns(home, CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            os.chdir(folder)
    finally:
        os.close(home)
