"""The keys of a cable, and how its ends and their routes are written."""

from __future__ import annotations

from qemunet.config import kinds, units
from qemunet.config.hints import Bad, did_you_mean
from qemunet.config.kinds import Kind, of_text, several
from qemunet.config.spec import EndKind, EndSpec
from qemunet.config.tables import Key, Table, keyed
from qemunet.model import names
from qemunet.model.cable import Route

_NAMED = {EndKind.NETWORK: "lab", EndKind.BRIDGE: "br0"}  # with an example of what stands behind the colon
_ENDS = ", ".join(f"{kind}:NAME" if kind in _NAMED else str(kind) for kind in EndKind)


def end(text: str) -> EndSpec:
    """Return what an end is plugged into, ``network:lab``; raises Bad."""
    word, colon, name = text.partition(":")
    if word not in [*EndKind]:
        raise Bad(f'unknown end "{text}"', did_you_mean(word, [*EndKind], f"ends are {_ENDS}"))
    kind = EndKind(word)
    if kind not in _NAMED:
        if colon:
            raise Bad(f'"{text}": {kind} takes no name', f'write "{kind}"')
        return EndSpec(kind)
    if not name:
        raise Bad(f'"{text}" lacks the name of a {kind}', f'as in "{kind}:{_NAMED[kind]}"')
    if kind is EndKind.BRIDGE:
        name = str(kinds.LINK.read("", name))
    elif not names.is_name(name):
        raise Bad(f'"{name}" cannot be a name', "a letter, then up to 62 letters, digits and hyphens")
    return EndSpec(kind, name)


def route(text: str) -> Route:
    """Return a route, ``192.168.60.0/24``, ``10.0.0.0/8 via 192.168.5.2`` or ``default via …``; raises Bad."""
    match text.split():
        case ["default", "via", gateway]:
            return Route("default", units.ip(gateway))
        case [destination, "via", gateway]:
            found = Route(units.subnet(destination), units.ip(gateway))
            if units.bits(found.destination) != units.bits(gateway):
                raise Bad(f'"{text}": a network and a gateway of different kinds')
            return Route("default", found.gateway) if destination.endswith("/0") else found
        case [destination] if destination != "default":
            return Route(units.subnet(destination))
    raise Bad(f'"{text}" is no route', 'as in "192.168.60.0/24", or "default via 192.168.5.254"')


END = of_text(end, pattern="^((network|bridge):.+|host|free)$")
ROUTES: Kind = several(route, "a route")

CABLE = Table(
    "[[cable]]",
    "A veth pair between any two of networks, existing bridges and the host, or with an end that is left free. It is "
    "there while a guest of the lab is, or since `qemunet net up`.",
    keyed(
        Key("name", kinds.NAME, "what commands call it", "its two ends", derived=True),
        Key("a", END, "where one end is plugged in"),
        Key("b", END, "where the other one is"),
        *(
            key
            for side in ("a", "b")
            for key in (
                Key(f"{side}-name", kinds.IFNAME, f"interface name of end {side}", f"qn-NAME-{side}", derived=True),
                Key(f"{side}-address", kinds.INTERFACES, "addresses of that end; not for a port of a bridge", "none"),
                Key(f"{side}-routes", ROUTES, "routes by that end, likewise", "none"),
                Key(f"{side}-mac", kinds.MAC, "its Ethernet address; auto: stable", "auto", derived=True),
            )
        ),
        Key("mtu", kinds.MTU, "largest packet", "the smallest of its bridges', else 1500", derived=True),
    ),
)
