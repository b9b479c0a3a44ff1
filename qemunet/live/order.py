"""Takes the order of ``run`` at the child's end, and parses the lab file for the parent, before it loads all the rest.

The parent needs the file sooner than the child has anything to do.
"""

from __future__ import annotations

import os
import tomllib  # noqa: F401 - loaded while the parent reads the command line

from qemunet.config import ahead
from qemunet.live.tether import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


def take(tether: socket.socket) -> dict[str, Any]:
    """Wait for the parent's order and return it; end the process if none comes."""
    order = receive(tether)
    if not order:
        os._exit(0)
    if order.get("thinks"):
        send(tether, {"parsed": ahead.parsed(order["file"])})
    return order
