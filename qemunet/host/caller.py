"""Who calls: behind ``sudo`` the one who typed it, and what he may read."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_NOBODY = 65534


def owner() -> tuple[int, int] | None:
    """Return uid and gid of the user behind ``sudo``, or None if the caller is himself."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (uid.isdecimal() and gid.isdecimal()):
        return None
    return int(uid), int(gid)


def can_switch_user() -> bool:
    """Tell whether processes can be given users of their own: root, where the ids are not just a few mapped ones."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map") as file:
        return sum(int(line.split()[2]) for line in file) >= 1 << 31


def readable(paths: Sequence[str]) -> frozenset[str]:
    """Return those of `paths` that the calling user may read; for root alone, those that everybody may.

    Root becomes that user to find out, in a child process: only the kernel knows all of groups, access lists and
    the directories on the way. Where root cannot become somebody else, he is the user himself.
    """
    if not can_switch_user():
        return frozenset(path for path in paths if _opens(path))
    if not paths:
        return frozenset()
    uid, gid = owner() or (_NOBODY, _NOBODY)
    answers, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_as(uid, gid, paths, theirs)
    os.close(theirs)
    with open(answers, "rb") as file:
        verdicts = file.read()
    os.waitpid(child, 0)
    return frozenset(path for path, verdict in zip(paths, verdicts, strict=False) if verdict == ord("y"))


def _answer_as(uid: int, gid: int, paths: Sequence[str], answers: int) -> NoReturn:
    """In the child: become the user, write a letter for each path, and end."""
    try:
        os.setgroups(_groups(uid, gid))
        os.setgid(gid)
        os.setuid(uid)
        os.write(answers, b"".join(b"y" if _opens(path) else b"n" for path in paths))
    finally:
        os._exit(0)


def _groups(uid: int, gid: int) -> list[int]:
    import pwd

    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return False
    return True
