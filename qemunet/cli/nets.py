"""``net list`` and ``net show``: shows which networks are up and who is on them."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json
from qemunet.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.state import Runtime, VmRecord

_HEADER = ("NAME", "MODE", "BRIDGE", "ADDRESSES", "GUESTS", "STATE")


def _list_arguments(parser: Parser) -> None:
    add_json(parser)


def _list(args: Namespace) -> int:
    _print(networks(runtime()), as_json=args.json)
    return 0


def _show_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NETWORK", help="a network that is up")
    add_json(parser)


def _show(args: Namespace) -> int:
    known = networks(runtime())
    found = [network for network in known if network["name"] == args.name]
    if not found:
        names = ", ".join(network["name"] for network in known) or "none"
        raise NotFound(
            f'no network "{args.name}" is up (up: {names})', hint="`qemunet run` brings one up with its first vm"
        )
    if args.json:
        render.as_json(found[0])
    else:
        _print(found, as_json=False)
    return 0


def networks(here: Runtime) -> list[dict[str, Any]]:
    """Return every network that is up or that a running vm is on, as `net list` prints them."""
    vms = [vm for vm in here.vms() if vm.state != "dead"]
    kept = {scope.name.removeprefix("net/") for scope in here.scopes("net")}
    used = {nic.network for vm in vms for nic in vm.nics if nic.network}
    return [_network(here, name, vms) for name in sorted(kept | used)]


def _network(here: Runtime, name: str, vms: Sequence[VmRecord]) -> dict[str, Any]:
    guests = [vm for vm in vms if any(nic.network == name for nic in vm.nics)]
    cards = [nic for vm in guests for nic in vm.nics if nic.network == name]
    declared = _declared(here, name, guests)
    return {
        "name": name,
        "mode": declared.get("mode"),
        "bridge": cards[0].bridge if cards else declared.get("bridge"),
        "addresses": declared.get("address", []),
        "netns": None,
        "guests": [vm.name for vm in guests],
        "state": "up",
    }


def _declared(here: Runtime, name: str, guests: Sequence[VmRecord]) -> dict[str, Any]:
    """Return the network's table from the saved model of a vm that is on it; what no vm is on is not known."""
    import tomllib

    for vm in guests:
        try:
            with open(here.scope(f"vm/{vm.name}").path("vm.toml"), "rb") as file:
                table: dict[str, Any] = tomllib.load(file).get("network", {}).get(name, {})
        except FileNotFoundError:
            continue  # it has just stopped
        return table
    return {}


def _print(shapes: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        render.as_json(shapes)
    else:
        render.table(_HEADER, map(_row, shapes))


def _row(network: dict[str, Any]) -> Sequence[str | None]:
    lists = {key: ", ".join(network[key]) for key in ("addresses", "guests")}
    return (
        network["name"],
        network["mode"],
        network["bridge"],
        lists["addresses"],
        lists["guests"],
        network["state"],
    )


COMMANDS: Commands = {"net list": (_list_arguments, _list), "net show": (_show_arguments, _show)}
