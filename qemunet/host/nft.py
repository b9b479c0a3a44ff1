"""Loads and deletes nft tables of ours in the network namespace of the calling thread."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import typing

from qemunet.errors import Failed, HostLacks, Taken, TimedOut
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished
from qemunet.steps.tables import FAMILY

if typing.TYPE_CHECKING:
    from qemunet.steps import DropTable, LoadTable

DEADLINE = 30.0  # seconds
_PROGRAM = "nft"
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # not in the PATH of Debian's ordinary users
_NETLINK_NETFILTER = 12
_GETTABLE = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE (linux/netfilter/nf_tables.h)
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_COMMENT = 0  # NFTNL_UDATA_TABLE_COMMENT, in the type-length-value form that nft keeps its own things in
_INET = struct.pack("=BBH", 1, 0, 0)  # struct nfgenmsg: NFPROTO_INET
_TAIL = 2000  # characters of what nft said, in an error


def load(step: LoadTable) -> None:
    """Load a table. Raises Taken if there is one of that name that is not ours; Failed; then nothing has changed."""
    whose = comment(step.name)
    if whose is not None and whose != step.mark.altname:
        raise Taken(
            f"there is a table {FAMILY} {step.name} already, of {whose or 'somebody else'}",
            hint=f"look at it: nft list table {FAMILY} {step.name}",
        )
    run(("-f", "-"), step.transaction)


def drop(step: DropTable) -> None:
    """Delete a table; raises Vanished if there is none of ours."""
    if comment(step.name) != step.mark.altname:
        raise Vanished(errno.ENOENT, f"there is no table {FAMILY} {step.name} of {step.mark.scope}")
    run(("delete", "table", FAMILY, step.name))


def comment(table: str) -> str | None:
    """Return the comment of a table, empty if it has none; None if there is no such table."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    net = nl.Netlink(sock)
    try:
        body = net.ask(nl.Request(_GETTABLE, 0, _INET + nl.text(_TABLE_NAME, table)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    finally:
        net.close()
    return _comment(nl.attributes(body[len(_INET) :]).get(_TABLE_USERDATA, b""))


def _comment(data: bytes) -> str:
    at = 0
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == _COMMENT:
            return nl.string(data[at + 2 : at + 2 + size])
        at += 2 + size
    return ""


def run(arguments: tuple[str, ...], text: str = "") -> str:
    """Run nft and return what it printed. Raises HostLacks, Failed with nft's words, TimedOut."""
    try:
        done = subprocess.run(
            (_program(), *arguments), input=text, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    except FileNotFoundError as error:
        raise HostLacks(["nft"], hint="it is in the package nftables") from error
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"nft {' '.join(arguments)} has not ended within {DEADLINE:g} s") from error
    if done.returncode != 0:
        raise Failed(f"nft {' '.join(arguments)} failed: {done.stderr.strip()[:_TAIL]}")
    return done.stdout


def _program() -> str:
    """Return the path of nft; raises FileNotFoundError."""
    for folder in (*os.get_exec_path(), *_SBIN):
        path = os.path.join(folder, _PROGRAM)
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _PROGRAM)
