"""A view of the file systems of its own for a program that may not go where its files are.

A runtime directory is closed to everybody else, and some programs forget both their working directory and what they
were given open. In a mount namespace of its own a program sees its files at a place that it can reach: where nothing
is that it needs.
"""

from __future__ import annotations

import os
import typing

from qemunet.host.netns import in_thread

if typing.TYPE_CHECKING:
    from collections.abc import Callable

T = typing.TypeVar("T")

PLACE = "/sys"  # it is everywhere, and what is mounted there is of use to nobody who serves a network
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000


def within(directory: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread for which `PLACE` is that directory; raises OSError if there can be no such view.

    What others mount and unmount is seen there, and nothing is seen elsewhere.
    """

    def entered() -> T:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)

        def checked(result: int) -> None:
            if result != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        checked(libc.unshare(_CLONE_NEWNS))
        # Before anything is mounted: what is mounted in a shared tree, everybody gets.
        checked(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
        checked(libc.mount(os.fsencode(directory), os.fsencode(PLACE), None, ctypes.c_ulong(_MS_BIND), None))
        return action()

    return in_thread(entered)


def can_be() -> bool:
    """Tell whether there can be such a view: root of some containers may make none."""
    try:
        within("/", lambda: None)
    except OSError:
        return False
    return True
