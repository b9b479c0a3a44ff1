"""``net list``, ``net show``, ``net leases``: which networks are up, and who is on them with which address."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json
from qemunet.errors import NotFound
from qemunet.frozen import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.records import VmRecord
    from qemunet.state import Runtime, Scope

_HEADER = ("NAME", "MODE", "BRIDGE", "ADDRESSES", "GUESTS", "STATE")
_CARD_HEADER = ("VM", "NIC", "MAC", "HOST", "IP")
_LEASE_HEADER = ("NETWORK", "MAC", "IP", "HOSTNAME", "VM", "NIC", "EXPIRES")


def _list_arguments(parser: Parser) -> None:
    add_json(parser)


def _list(args: Namespace) -> int:
    _print(networks(runtime()), as_json=args.json)
    return 0


def _show_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NETWORK", help="a network that is up")
    add_json(parser)


def _show(args: Namespace) -> int:
    here = runtime()
    found = _named(networks(here), args.name)
    found |= {"cards": _cards(here, args.name), "file": here.networks().get(args.name)}
    if args.json:
        render.as_json(found)
        return 0
    _print([found], as_json=False)
    _print_cards(found["cards"])
    if found["file"]:
        render.out(f"\n{found['file'].rstrip()}")
    return 0


def _print_cards(cards: Sequence[dict[str, Any]]) -> None:
    """Print who is on a network."""
    if cards:
        render.out("")
        rows = [(one["vm"], one["nic"], one["mac"], _host(one), ", ".join(one["ips"])) for one in cards]
        render.table(_CARD_HEADER, rows)


def _host(card: dict[str, Any]) -> str | None:
    return render.placed(card["netns"], card["ifname"])


def _named(known: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the network of that name; raises NotFound."""
    for network in known:
        if network["name"] == name:
            return network
    names = ", ".join(network["name"] for network in known) or "none"
    raise NotFound(
        f'no network "{name}" is up (up: {names})',
        hint="`qemunet run` brings one up with its first vm, `qemunet net up` without any",
    )


def _leases_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NETWORK", nargs="?", help="a network that is up; default all")
    add_json(parser)


def _leases(args: Namespace) -> int:
    from qemunet.host.leases import when
    from qemunet.live.leases import of_networks

    here = runtime()
    known = networks(here)
    names = [network["name"] for network in ([_named(known, args.name)] if args.name else known)]
    rows = [as_dict(one) for one in of_networks(here, names, here.vms())]
    if args.json:
        render.as_json(rows)
    else:
        render.table(_LEASE_HEADER, [(*list(row.values())[:-1], when(row["expires"])) for row in rows])
    return 0


def networks(here: Runtime) -> list[dict[str, Any]]:
    """Return every network that is up or that a running vm is on, as `net list` prints them."""
    vms = [vm for vm in here.vms() if vm.state != "dead"]
    kept = {scope.name.removeprefix("net/") for scope in here.scopes("net")}
    used = {nic.network for vm in vms for nic in vm.nics if nic.network}
    return [_network(here, name, vms) for name in sorted(kept | used)]


def _cards(here: Runtime, name: str) -> list[dict[str, Any]]:
    """Return the cards that are on a network; their addresses are those that their files give them."""
    return [
        {"vm": vm.name, "nic": nic.id, "mac": nic.mac, "ifname": nic.ifname, "netns": nic.netns, "ips": list(nic.ips)}
        for vm in here.vms()
        if vm.state != "dead"
        for nic in vm.nics
        if nic.network == name
    ]


def _network(here: Runtime, name: str, vms: Sequence[VmRecord]) -> dict[str, Any]:
    guests = [vm for vm in vms if any(nic.network == name for nic in vm.nics)]
    cards = [nic for vm in guests for nic in vm.nics if nic.network == name]
    scope = here.scope(f"net/{name}")
    told = [_declared(here.scope(f"vm/{vm.name}").path("vm.toml"), name) for vm in guests]
    declared = _declared(scope.path("net.toml"), name) or next(filter(None, told), {})
    return {
        "name": name,
        "mode": declared.get("mode"),
        "bridge": declared.get("bridge") or (cards[0].bridge if cards else None),
        "addresses": declared.get("address", []),
        "old_addresses": [{"address": one, "until": until} for one, until in scope.leaving().items()],
        "netns": declared.get("netns") or (cards[0].netns if cards else None),
        "guests": [vm.name for vm in guests],
        "state": _state(scope),
        "held": scope.held(),
        "keep": os.path.exists(scope.path("keep")),
        "external": any(one.get("external", False) for one in told),
        "dhcp": _dhcp(scope),
    }


def _state(scope: Scope) -> str:
    """Return ``up``, with what is wrong about it: that what should serve DHCP and names there is dead."""
    if scope.exists() and scope.fingerprint() is None:
        return "starting"
    return "up, no dhcp" if _dhcp(scope) == "dead" else "up"


def _dhcp(scope: Scope) -> str | None:
    """Say whether what serves DHCP and names on a network lives; None if nothing does."""
    from qemunet.locks import is_locked

    if not os.path.exists(os.path.join(scope.serving(), "dnsmasq.json")):
        return None
    return "running" if is_locked(os.path.join(scope.serving(), "dnsmasq.log")) else "dead"


def _declared(path: str, name: str) -> dict[str, Any]:
    """Return the table of a network in a file of the runtime directory; nothing if the file is just going."""
    import tomllib

    try:
        with open(path, "rb") as file:
            table: dict[str, Any] = tomllib.load(file).get("network", {}).get(name, {})
    except FileNotFoundError:
        return {}
    return table


def _print(shapes: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        render.as_json(shapes)
    else:
        render.table(_HEADER, map(_row, shapes))


def old_address(one: dict[str, Any]) -> str:
    """Say how long the host has an address on a network that is none of its settings any more."""
    from qemunet.host.leases import when

    return f"{one['address']} until {'no lease' if one['until'] is None else when(one['until'])}"


def _row(network: dict[str, Any]) -> Sequence[str | None]:
    lists = {key: ", ".join(network[key]) for key in ("addresses", "guests")}
    return (
        network["name"],
        network["mode"],
        render.placed(network["netns"], network["bridge"]),
        ", ".join(filter(None, [lists["addresses"], *map(old_address, network["old_addresses"])])),
        lists["guests"],
        ", ".join([network["state"], *(word for word in ("held", "keep") if network[word])]),
    )


COMMANDS: Commands = {
    "net list": (_list_arguments, _list),
    "net show": (_show_arguments, _show),
    "net leases": (_leases_arguments, _leases),
}
