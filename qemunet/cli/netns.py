"""``netns list``: which namespaces of labs are up, and what is in them."""

from __future__ import annotations

from contextlib import closing

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json
from qemunet.frozen import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands
    from qemunet.live.spaces import Interface, Seen

_HEADER = ("NAME", "HOSTNAME", "INTERFACES", "NETWORKS", "GUESTS", "STATE")
_LOCAL = ("127.0.0.1/8", "::1/128")  # what every lo has


def _list(args: Namespace) -> int:
    from qemunet.host.linux import LinuxHost
    from qemunet.live import spaces

    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        found = spaces.every(here, host)
    if args.json:
        render.as_json([_shape(one) for one in found])
    else:
        render.table(_HEADER, map(_row, found))
    return 0


def _shape(seen: Seen) -> dict[str, object]:
    return {**as_dict(seen), "interfaces": [as_dict(one) for one in seen.interfaces]}


def _row(seen: Seen) -> tuple[str, ...]:
    inside = "; ".join(filter(None, map(_words, seen.interfaces)))
    return seen.name, seen.hostname, inside, ", ".join(seen.networks), ", ".join(seen.guests), seen.state


def _words(one: Interface) -> str:
    """Return an interface with its addresses; nothing for a lo like every other."""
    told = [address for address in one.addresses if address not in _LOCAL and not address.startswith("fe80:")]
    return "" if one.ifname == "lo" and not told else " ".join((one.ifname, *told))


COMMANDS: Commands = {"netns list": (add_json, _list)}
