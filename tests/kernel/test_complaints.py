"""Who is named as the one that has something."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys

import pytest

from qemunet.host import complaints, processes
from tests import namespace

TAP = "qn-a"
TUNSETIFF = 0x400454CA
FLAGS = 0x1002  # IFF_TAP, IFF_NO_PI
OPEN = f"""
import fcntl, struct, sys
tun = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(tun, {TUNSETIFF}, struct.pack("16sH22x", b"{TAP}", {FLAGS}))
print("open", flush=True)
sys.stdin.read()
"""


def test_of_two_taps_of_one_name_the_one_in_our_namespace_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever process is looked at first."""
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace(), open("/dev/net/tun", "r+b", buffering=0) as tun:
        argv = ["unshare", "--net", sys.executable, "-c", OPEN]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(argv, **pipes, text=True) as other:  # type: ignore[call-overload]
            assert other.stdout.readline() == "open\n"
            monkeypatch.setattr(processes, "all_pids", lambda: iter([other.pid, os.getpid()]))
            assert f"(pid {other.pid})" in complaints.tap_user(TAP)
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), FLAGS))
            assert f"(pid {os.getpid()})" in complaints.tap_user(TAP)
            other.communicate("")
