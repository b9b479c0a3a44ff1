"""``cable list``, ``pull``, ``plug``, ``add`` and ``del``: veth cables, live."""

from __future__ import annotations

from contextlib import closing

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json, number, vlans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.live.cables import Seen
    from qemunet.model.cable import End

_HEADER = ("NAME", "A", "A IFNAME", "B", "B IFNAME", "ADDRESSES", "STATE")
_SIDES = ("a", "b")
_KEYS = ("name", "mac", "address", "routes", "vlan")  # of an end


def _list(args: Namespace) -> int:
    from qemunet.host.linux import LinuxHost
    from qemunet.live import cables

    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        shapes = [_shape(seen) for seen in cables.every(here, host)]
    if args.json:
        render.as_json(shapes)
    else:
        render.table(_HEADER, map(_row, shapes))
    return 0


def _shape(seen: Seen) -> dict[str, Any]:
    return {
        "name": seen.cable.name,
        "a": _end(seen.cable.a),
        "b": _end(seen.cable.b),
        "mtu": seen.cable.mtu,
        "state": seen.state,
        "guests": list(seen.guests),
        "held": seen.held,
    }


def _end(end: End) -> dict[str, Any]:
    from qemunet.config.wiring import place
    from qemunet.model import vlan

    return {
        "at": place(end),
        "ifname": end.ifname,
        "mac": end.mac,
        "addresses": list(end.addresses),
        "routes": [str(route) for route in end.routes],
        "vlan": None if end.vlans is None else vlan.table(end.vlans),
    }


def _row(shape: dict[str, Any]) -> tuple[str, ...]:
    a, b = shape["a"], shape["b"]
    addresses = ", ".join((*a["addresses"], *b["addresses"]))
    return shape["name"], a["at"], a["ifname"], b["at"], b["ifname"], addresses, shape["state"]


def _named_arguments(parser: Parser) -> None:
    parser.add_argument("names", metavar="CABLE", nargs="+", help="a cable that is there")
    add_json(parser)


def _each(args: Namespace, how: str, action: Callable[..., None]) -> int:
    """Do something to every cable that is named; tell of each."""
    from qemunet import interrupts
    from qemunet.host.linux import LinuxHost

    interrupts.install()
    here = runtime()
    done = []
    with closing(LinuxHost(here.path)) as host:
        for name in dict.fromkeys(args.names):
            action(here, host, name)
            done.append({"cable": name, "how": how})
            if not args.json:
                render.note(f"{name}: {how}")
    if args.json:
        render.as_json(done)
    return 0


def _pull(args: Namespace) -> int:
    from qemunet.live import cables

    return _each(args, "pulled", cables.pull)


def _plug(args: Namespace) -> int:
    from qemunet.live import cables

    return _each(args, "plugged", cables.plug)


def _del(args: Namespace) -> int:
    from qemunet.live import cables

    return _each(args, "deleted", cables.delete)


def _add_arguments(parser: Parser) -> None:
    where = "network:NAME, bridge:IFNAME, host or free"
    parser.add_argument("a", metavar="A", help=f"where one end is plugged in: {where}")
    parser.add_argument("b", metavar="B", help="where the other one is")
    parser.add_argument("--name", help="what the cable is called (default: its two ends)")
    for side in _SIDES:
        parser.add_argument(f"--{side}-name", metavar="IFNAME", help=f"interface name of end {side}")
        parser.add_argument(f"--{side}-mac", metavar="MAC", help="its Ethernet address")
        parser.add_argument(f"--{side}-vlan", metavar="VLAN", type=vlans, help="its VLANs: 10, or trunk=10,20,native=1")
        for what, metavar in (("address", "CIDR"), ("routes", "ROUTE")):
            option = f"--{side}-{what}"
            parser.add_argument(option, metavar=metavar, action="append", help=f"{what} of it; may be repeated")
    parser.add_argument("--mtu", type=number, help="largest packet")
    add_json(parser)


def _add(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.host.linux import LinuxHost
    from qemunet.live import cables

    interrupts.install()
    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        name = cables.add(here, host, _text(args))
        (shape,) = (_shape(seen) for seen in cables.every(here, host) if seen.cable.name == name)
    if args.json:
        render.as_json(shape)
    else:
        render.note(f"{name}: {shape['a']['ifname']} ({args.a}) to {shape['b']['ifname']} ({args.b})")
    return 0


def _text(args: Namespace) -> str:
    """Return the lab file that has the cable of a command line, and networks that others made."""
    from qemunet.config.write import value

    keys = (
        "name",
        "a",
        "b",
        "mtu",
        *(f"{side}-{key}" for side in _SIDES for key in _KEYS),
    )
    given = ((key, getattr(args, key.replace("-", "_"))) for key in keys)
    pairs = [(key, tuple(one) if isinstance(one, list) else one) for key, one in given if one is not None]
    names = [end.partition(":")[2] for end in (args.a, args.b) if end.startswith("network:")]
    tables = [f"[network.{value(name)}]\nexternal = true" for name in dict.fromkeys(filter(None, names))]
    return "\n".join((*tables, "[[cable]]", *(f"{key} = {value(one)}" for key, one in pairs), ""))


COMMANDS: Commands = {
    "cable list": (add_json, _list),
    "cable pull": (_named_arguments, _pull),
    "cable plug": (_named_arguments, _plug),
    "cable add": (_add_arguments, _add),
    "cable del": (_named_arguments, _del),
}
