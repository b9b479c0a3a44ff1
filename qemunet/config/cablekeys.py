"""The keys of cables and of namespaces, and how ends and routes are written."""

from __future__ import annotations

import re

from qemunet.config import kinds, units, vlankinds
from qemunet.config.hints import Bad, did_you_mean
from qemunet.config.kinds import Kind, of_text, several, string, wrong
from qemunet.config.spec import EndKind, EndSpec
from qemunet.config.tables import Key, Table, keyed
from qemunet.frozen import replace
from qemunet.model import names
from qemunet.model.cable import Route

_NAMED = {
    EndKind.NETWORK: "lab",
    EndKind.BRIDGE: "br0",
    EndKind.NETNS: "netns1",
}  # with an example of what stands behind the colon
_SYSCTL = r"net(\.[A-Za-z0-9_/-]+)+"
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


def netns_route(text: str) -> Route:
    """Return a route, which may end with ``dev IFNAME``; raises Bad."""
    match text.split():
        case [*words, "dev", device]:
            return replace(route(" ".join(words)), device=str(kinds.IFNAME.read("", device)))
    return route(text)


def _addresses(_key: str, value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    example = 'as in address = { veth11 = "192.168.5.1/24" }'
    if not isinstance(value, dict):
        raise wrong("a table", value, example)
    found = []
    for name, one in value.items():
        addresses = kinds.INTERFACES.read(name, one)
        assert isinstance(addresses, tuple), "it is a kind of lists"
        found.append((str(kinds.IFNAME.read("", name)), addresses))
    return tuple(found)


def _sysctls(_key: str, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise wrong("a table", value, 'as in sysctls = { "net.ipv4.ip_forward" = 1 }')
    return tuple((_sysctl(name), _value(name, one)) for name, one in value.items())


def _sysctl(name: str) -> str:
    if not re.fullmatch(_SYSCTL, name):
        raise Bad(f'"{name}" is no sysctl of a network', 'they begin with net., as "net.ipv4.ip_forward", in quotes')
    return name


def _value(name: str, one: object) -> str:
    return str(one) if isinstance(one, int) and not isinstance(one, bool) else string(name, one)


END = of_text(end, pattern="^((network|bridge|netns):.+|host|free)$")
ROUTES: Kind = several(route, "a route")
NETNS_ROUTES: Kind = several(netns_route, "a route")
ADDRESSES = Kind(_addresses, {"type": "object", "additionalProperties": kinds.INTERFACES.schema})
SYSCTLS = Kind(
    _sysctls,
    {
        "type": "object",
        "patternProperties": {f"^{_SYSCTL}$": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
        "additionalProperties": False,
    },
)

CABLE = Table(
    "[[cable]]",
    "A veth pair between any two of networks, existing bridges, namespaces and the host, or with an end that is left "
    "free. It is there while a guest of the lab is, or since `qemunet net up`.",
    keyed(
        Key("name", kinds.NAME, "what commands call it", "its two ends", derived=True),
        Key("a", END, "where one end is plugged in"),
        Key("b", END, "where the other one is"),
        *(
            key
            for side in ("a", "b")
            for key in (
                Key(f"{side}-name", kinds.IFNAME, f"interface name of end {side}", f"qn-NAME-{side}", derived=True),
                Key(
                    f"{side}-address", kinds.INTERFACES, "addresses of that end; at the host or in a namespace", "none"
                ),
                Key(f"{side}-routes", ROUTES, "routes by that end, likewise", "none"),
                Key(f"{side}-mac", kinds.MAC, "its Ethernet address; auto: stable", "auto", derived=True),
                Key(f"{side}-vlan", vlankinds.VLAN, "its VLANs, in a bridge that tells them apart", "1"),
            )
        ),
        Key("mtu", kinds.MTU, "largest packet", "the smallest of its bridges', else 1500", derived=True),
    ),
)

NETNS = Table(
    "[netns.NAME]",
    "A network namespace that plays a host; its lo is up. Like a cable it is there while a guest of the lab is, or "
    "since `qemunet net up`. `qemunet exec NAME -- COMMAND` runs a command in it.",
    keyed(
        Key("hostname", kinds.HOSTNAME, "its own host name", "NAME", derived=True),
        Key("named", kinds.BOOL, "`ip netns` shows it; false: nobody but qemunet knows of it", "true"),
        Key("address", ADDRESSES, "addresses by interface: lo, or the end of a cable that is in it", "{}"),
        Key("routes", NETNS_ROUTES, "by the end in whose network the gateway is, or by `dev`", "none"),
        Key("sysctls", SYSCTLS, "settings of its network", "{}"),
    ),
)
