"""Finds programs, also where the PATH of Debian's ordinary users does not lead."""

from __future__ import annotations

import os

from qemunet.errors import HostLacks

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def path(name: str, package: str) -> str:
    """Return the path of a program; raises HostLacks with the package that it is in."""
    for folder in (*os.get_exec_path(), *_SBIN):
        found = os.path.join(folder, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    raise HostLacks([name], hint=f"it is in the package {package}")
