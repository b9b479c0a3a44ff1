"""``net up`` and ``net down``: networks and cables without vms."""

from __future__ import annotations

import os
from contextlib import closing

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json, add_overrides

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.state import Runtime


def _up_arguments(parser: Parser) -> None:
    what = "a lab file, or a network that is up: it stays from then on, with or without guests"
    parser.add_argument("what", metavar="FILE|NAME", help=what)
    parser.add_argument("names", metavar="NETWORK", nargs="*", default=[], help="only these networks")
    add_overrides(parser)
    add_json(parser)


def _up(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.host.linux import LinuxHost
    from qemunet.live import nets
    from qemunet.live.source import Source

    interrupts.install()
    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        if _is_file(here, args.what):
            tell = _silent if args.json else render.note
            held = nets.up(here, host, Source.read(args.what, args.overrides), args.names, tell)
        else:
            held = nets.hold(here, host, list(dict.fromkeys([args.what, *args.names])))
    return _tell(here, held, as_json=args.json)


def _tell(here: Runtime, names: Sequence[str], *, as_json: bool) -> int:
    from qemunet.cli.nets import networks

    shapes = [network for network in networks(here) if f"net/{network['name']}" in names]
    if as_json:
        render.as_json(shapes)
        return 0
    for name in names:
        kind, _, own = name.partition("/")
        if kind != "net":
            render.note(f"{own}: the {'cable' if kind == 'cable' else 'namespace'} is up")
    for network in shapes:
        addresses = f" ({', '.join(network['addresses'])})" if network["addresses"] else ""
        render.note(f"{network['name']}: up, bridge {network['bridge']}{addresses}")
    return 0


def _down_arguments(parser: Parser) -> None:
    parser.add_argument("names", metavar="FILE|NAME", nargs="+", help="a network that is up, or a lab file")
    add_json(parser)


def _down(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.host.linux import LinuxHost
    from qemunet.live import nets

    interrupts.install()
    here = runtime()
    names = [one for what in args.names for one in (nets.of_file(here, what) if _is_file(here, what) else [what])]
    with closing(LinuxHost(here.path)) as host:
        tell = _silent if args.json else render.note
        gone = nets.down(here, host, list(dict.fromkeys(names)), tell)
    if args.json:
        left = [name for name in dict.fromkeys(names) if name not in gone]
        rows = [{"network": name, "how": "down"} for name in gone]
        render.as_json(rows + [{"network": name, "how": "with its last guest"} for name in left])
    else:
        for name in gone:
            render.note(f"{name}: down")
    return 0


def _is_file(here: Runtime, what: str) -> bool:
    """Tell whether a word means a lab file; a network that is up has the word that is both."""
    if "/" in what or what.endswith(".toml"):
        return True
    return what not in here.networks() and os.path.isfile(what)


def _silent(_text: str) -> None:
    """Say nothing: whoever wants JSON gets nothing else."""


COMMANDS: Commands = {"net up": (_up_arguments, _up), "net down": (_down_arguments, _down)}
