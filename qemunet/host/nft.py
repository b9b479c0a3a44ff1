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
from qemunet.host import netns
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
_NFGENMSG = struct.Struct("=BBH")  # family, version, resource
_FAMILIES = {"inet": 1, "arp": 3, "netdev": 5, "bridge": 7}
_TRIALS = {
    "bridge": """table bridge trial {
        counter one { }
        chain trial { type filter hook prerouting priority 0; ether saddr 52:54:00:00:00:01 counter name "one" drop; }
    }
    """,
    "egress": """table netdev trial {
        counter one { }
        chain trial { type filter hook egress device "lo" priority 0; ether type ip counter name "one" drop; }
    }
    """,
    "inet": """table inet trial {
        chain trial { type filter hook prerouting priority 0; ether saddr 52:54:00:00:00:01 drop; }
    }
    table arp trial {
        chain trial { type filter hook input priority 0; arp saddr ether 52:54:00:00:00:01 drop; }
    }
    """,
}
_TAIL = 2000  # characters of what nft said, in an error


def load(step: LoadTable) -> None:
    """Load a table. Raises Taken if there is one of that name that is not ours; Failed; then nothing has changed."""
    whose, table = comment(step.name, step.family), f"table {step.family} {step.name}"
    if whose is not None and whose != step.mark.altname:
        hint = f"look at it: nft list {table}"
        raise Taken(f"there is a {table} already, of {whose or 'somebody else'}", hint=hint)
    run(("-f", "-"), step.transaction)


def drop(step: DropTable) -> None:
    """Delete a table; raises Vanished if there is none of ours."""
    if comment(step.name, step.family) != step.mark.altname:
        raise Vanished(errno.ENOENT, f"there is no table {step.family} {step.name} of {step.mark.scope}")
    run(("delete", "table", step.family, step.name))


def counters(family: str, table: str) -> dict[str, int]:
    """Return how many packets each counter of a table has counted; raises Failed, HostLacks, TimedOut."""
    import json

    listing = json.loads(run(("-j", "list", "counters", "table", family, table)))
    found = (entry["counter"] for entry in listing["nftables"] if "counter" in entry)
    return {one["name"]: int(one["packets"]) for one in found}


def guard_lacks() -> frozenset[str]:
    """Return which ways to look at what guests send this kernel does not have, of those in `_TRIALS`.

    Found out in a network namespace of its own; where none can be made nothing is known to be lacking.
    """
    try:
        return netns.in_fresh_namespace(lambda: frozenset(way for way, text in _TRIALS.items() if not _takes(text)))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
            raise
        return frozenset()


def _takes(text: str) -> bool:
    try:
        run(("-f", "-"), text)
    except Failed:
        return False
    return True


def comment(table: str, family: str = FAMILY) -> str | None:
    """Return the comment of a table, empty if it has none; None if there is no such table."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    net = nl.Netlink(sock)
    head = _NFGENMSG.pack(_FAMILIES[family], 0, 0)
    try:
        body = net.ask(nl.Request(_GETTABLE, 0, head + nl.text(_TABLE_NAME, table)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    finally:
        net.close()
    return _comment(nl.attributes(body[_NFGENMSG.size :]).get(_TABLE_USERDATA, b""))


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
