"""Modules that are loaded when something of them is first used.

Whoever starts a guest waits for every module that is loaded before QEMU is (0.15 ms and more each), and most labs have
no cables, no namespaces and no networks of their own. Type checkers are told of the real module::

    if TYPE_CHECKING:
        from qemunet.config import cables
    else:
        cables = later("qemunet.config.cables")
"""

from __future__ import annotations


class later:  # noqa: N801 - it stands for a module
    """A module of that full name, which is loaded at the first look at one of its names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        return getattr(__import__(self._name, fromlist=["*"]), name)
