"""Everything on a host that qemunet could leave behind, as text, so that before and after can be compared.

It looks at the network namespace of the calling process, at the processes that live there, at this process's own
descriptors, and at one runtime directory.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.patience import rest

Dump = dict[str, list[str]]
Entries = list[dict[str, Any]]  # of one answer of ip(8)

LINKS, ADDRESSES, PERMANENT = "link", "address", "neigh show nud permanent"
ROUTING = ("route show table all", "rule", "neigh show proxy")  # asked for each family
FAMILIES = ("-4", "-6")

VOLATILE_SYSCTLS = {"nf_conntrack_count", "tcp_fastopen_key"}  # the key is made with the first server that wants one
VOLATILE_BRIDGE = re.compile(r"_timer$|^(topology_change|root_port|bridge_id|designated_root)")
ROOM = 4096  # bytes of a sysctl: the kernel clears as much as it is asked for, each time
LINK_KEYS = ("link", "master", "mtu", "address", "group", "altnames", "promiscuity", "ifalias")


def dump(runtime: Path | None = None) -> Dump:
    """Return the sections, each a sorted list of lines."""
    found, given, permanent = answers("-d", LINKS, ADDRESSES, PERMANENT)
    routed = {family: answers(family, *ROUTING) for family in FAMILIES}
    return {
        "links": links(found),
        "addresses": addresses(given),
        "routes": routes(routed),
        "neighbours": neighbours(permanent, routed),
        "fdb": forwarding(),
        "qdiscs": qdiscs(),
        "nft": program("nft", "-s", "list", "ruleset").splitlines(),
        "sysctls": sysctls(),
        "processes": processes(),
        "descriptors": descriptors(),
        "files": files(runtime) if runtime else [],
    }


def difference(before: Dump, after: Dump) -> str:
    """Return what differs, as a diff by section; empty if nothing does."""
    found = []
    for name in before:
        diff = list(difflib.unified_diff(before[name], after[name], "before", "after", lineterm="", n=0))
        found += [f"{name}:", *(f"  {line}" for line in diff if not line.startswith(("---", "+++", "@@")))] * bool(diff)
    return "\n".join(found)


def left_behind(before: Dump, runtime: Path | None = None, seconds: float = 20) -> str:
    """Return what differs now; the kernel and dying processes get some time to finish by themselves."""
    deadline = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        found = difference(before, dump(runtime))
        if not found or time.monotonic() > deadline:
            return found
        rest(begun)


def program(*argv: str, given: str | None = None) -> str:
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=True).stdout


def ip(*words: str) -> list[dict[str, Any]]:
    return [entry for entry in json.loads(program("ip", "-j", *words) or "[]") if entry]


def answers(option: str, *questions: str) -> list[Entries]:
    """What one ip(8) answers to several questions: a program for each costs more than what it does."""
    said = program("ip", "-j", option, "-batch", "-", given="\n".join(questions) + "\n")
    found = [[entry for entry in json.loads(line) if entry] for line in said.splitlines()]
    assert len(found) == len(questions), f"{questions}: {said}"
    return found


def links(shown: Entries | None = None) -> list[str]:
    found = []
    for link in answers("-d", LINKS)[0] if shown is None else shown:
        info = link.get("linkinfo", {})
        data = {k: v for k, v in (info.get("info_data") or {}).items() if not VOLATILE_BRIDGE.search(k)}
        kept = {key: link.get(key) for key in LINK_KEYS}
        up = "UP" in link["flags"]
        apart = " isolated" if (info.get("info_slave_data") or {}).get("isolated") else ""
        found.append(f"{link['ifname']}: up={up} {info.get('info_kind')} {kept} {data}{apart}")
    return sorted(found)


def addresses(shown: Entries | None = None) -> list[str]:
    return sorted(
        f"{link['ifname']}: {one['local']}/{one['prefixlen']} {one.get('scope')}"
        for link in (ip(ADDRESSES) if shown is None else shown)
        for one in link.get("addr_info", [])
        if one
    )


def routes(shown: dict[str, list[Entries]]) -> list[str]:
    found = [("route", family, entry) for family in FAMILIES for entry in shown[family][0]]
    found += [("rule", family, entry) for family in FAMILIES for entry in shown[family][1]]
    return sorted(f"{what} {family} {json.dumps(entry, sort_keys=True)}" for what, family, entry in found)


def neighbours(permanent: Entries, shown: dict[str, list[Entries]]) -> list[str]:
    """What somebody has set; what the kernel has learned comes and goes."""
    found = [("permanent", entry) for entry in permanent]
    found += [("proxy", entry) for family in FAMILIES for entry in shown[family][2]]
    return sorted(f"{what} {entry['dst']} {entry.get('dev')} {entry.get('lladdr')}" for what, entry in found)


def forwarding() -> list[str]:
    """The bridges' tables, without what they have learned and the groups that come with addresses."""
    entries = [entry for entry in json.loads(program("bridge", "-j", "fdb") or "[]") if entry]
    kept = [one for one in entries if one["state"] not in ("", "stale") and not int(one["mac"][:2], 16) & 1]
    return sorted(f"{one['mac']} {one['ifname']} {one.get('master')} {one['flags']} {one['state']}" for one in kept)


def qdiscs() -> list[str]:
    """What shapes links, without numbers that the kernel gives."""
    shown = program("tc", "-d", "-batch", "-", given="qdisc show\naction ls action mirred\n").splitlines()
    return sorted(re.sub(r" refcnt \d+|index \d+ ref \d+ bind \d+", "", line) for line in shown)


def sysctls() -> list[str]:
    found = []
    for folder, _folders, names in os.walk("/proc/sys/net"):
        with contextlib.suppress(FileNotFoundError), _opened(folder) as at:  # its interface may just go
            for name in set(names) - VOLATILE_SYSCTLS:
                with contextlib.suppress(OSError, UnicodeDecodeError):  # write-only ones
                    found.append(f"{folder}/{name} = {_sysctl(name, at)}")
    return sorted(found)


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _sysctl(name: str, at: int) -> str:
    """Read one of a thousand, without the way to it, and without what makes a file object of it."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
    try:
        said = os.read(fd, ROOM)
        assert len(said) < ROOM, f"{name} says more than fits: {said!r}"
        return said.decode().strip()
    finally:
        os.close(fd)


def processes() -> list[str]:
    """The processes in this network namespace but this one, each with what it has open.

    A zombie is gone, it only waits for somebody to look.
    """
    here = os.stat("/proc/thread-self/ns/net").st_ino
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        with contextlib.suppress(OSError):
            if pid == os.getpid() or os.stat(f"/proc/{pid}/ns/net").st_ino != here:
                continue
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                found += [name, *(f"{name}: {target}" for target in descriptors(pid))]
    return sorted(found)


def descriptors(process: int | str = "self") -> list[str]:
    """What a process has open."""
    found = []
    for entry in os.listdir(f"/proc/{process}/fd"):
        with contextlib.suppress(OSError):  # the one that lists
            found.append(os.readlink(f"/proc/{process}/fd/{entry}"))
    return sorted(found)


def files(folder: Path) -> list[str]:
    """The files of a directory with their modes; one that vanishes meanwhile means to look again."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            found = [(path.relative_to(folder), path.lstat().st_mode) for path in folder.rglob("*")]
            return sorted(f"{path} {stat.filemode(mode)}" for path, mode in found)
