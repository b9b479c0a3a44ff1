"""The cheap part of `gc`, which follows the commands about all that runs: the dead are shown once and taken back."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.errors import QemunetError
from qemunet.state import Runtime, locate


def sweep() -> None:
    """Take back the vms whose QEMU is dead and on which nobody works; what cannot be is noted."""
    try:
        here = Runtime(locate())
        if not any(vm.state == "dead" for vm in here.vms()):
            return
        from contextlib import closing

        from qemunet.host.linux import LinuxHost
        from qemunet.live import session

        with closing(LinuxHost(here.path)) as host:
            for failure in session.clean(here, host):
                render.note(f"note: {failure}")
    except (QemunetError, OSError) as error:
        render.note(f"note: what dead vms have left was not taken back: {error}")
