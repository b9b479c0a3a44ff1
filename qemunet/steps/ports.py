"""Steps about interfaces of the host that become ports of a bridge, and what moves to the bridge from one of them.

These interfaces are somebody else's. They are known by their index, which stays the same when one is renamed; where
it is 0, the name counts. Every step says what there was, so that its undo needs no photograph.
"""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.model.routing import BY_KERNEL, MAIN, NO_PREFIX_ROUTE, NODAD, UNICAST, IpAddress, IpRoute
from qemunet.model.vlan import Vlans
from qemunet.steps.vlans import SetVlans, vlan_words
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step

_OPTIONS = {  # of routes (RTAX_*), as ip-route(8) has them
    2: "mtu",
    3: "window",
    7: "cwnd",
    8: "advmss",
    9: "reordering",
    10: "hoplimit",
    11: "initcwnd",
    13: "rto_min",
    14: "initrwnd",
    15: "quickack",
}
OPTIONS = frozenset({1, *_OPTIONS})  # that can be moved
_KINDS = {2: "local", 3: "broadcast", 4: "anycast", 5: "multicast"}
_LOCK, _RTO_MIN = 1, 13
_PREFERENCES = {0: "medium", 1: "high", 3: "low"}
_SCOPES = {0: "global", 253: "link", 254: "host"}


@frozen
class PlugPort:
    """Plug an interface of the host into a bridge of ours, where it is in `vlans`; None: in that of every new port."""

    name: str
    index: int
    bridge: str
    vlans: Vlans | None = None

    def describe(self) -> str:
        where = "" if self.vlans is None else f" ({vlan_words(self.vlans)})"
        return f"plug {self.name} into {self.bridge}{where}"

    def inverse(self, before: Facts) -> Step | None:
        return UnplugPort(self.name, self.index, self.bridge, self.vlans)

    def shell(self) -> tuple[str, ...]:
        put = () if self.vlans is None else SetVlans(self.name, self.vlans).shell()
        return (line("ip", "link", "set", "dev", self.name, "master", self.bridge), *put)


@frozen
class UnplugPort:
    """Plug an interface out of a bridge, if it is still in that one; its `vlans` there are over with that."""

    name: str
    index: int
    bridge: str
    vlans: Vlans | None = None

    def describe(self) -> str:
        return f"plug {self.name} out of {self.bridge}"

    def inverse(self, before: Facts) -> Step | None:
        return PlugPort(self.name, self.index, self.bridge, self.vlans)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "set", "dev", self.name, "nomaster"),)


@frozen
class ChangePort:
    """Set an interface of the host up or down, or its MTU; `was_up` and `was_mtu` are what there was."""

    name: str
    index: int
    up: bool | None = None
    was_up: bool | None = None
    mtu: int | None = None
    was_mtu: int | None = None

    def describe(self) -> str:
        return f"set {self.name} {' '.join(self._words())}"

    def inverse(self, before: Facts) -> Step | None:
        return ChangePort(self.name, self.index, self.was_up, self.up, self.was_mtu, self.mtu)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "set", "dev", self.name, *self._words()),)

    def _words(self) -> list[str]:
        words = [] if self.mtu is None else ["mtu", str(self.mtu)]
        return words if self.up is None else [*words, "up" if self.up else "down"]


@frozen
class PutAddress:
    """Put an address on an interface with all that belongs to it; usable at once, and no error if it is there.

    `like`: an interface that has it as well, where somebody may have renewed the time for which it is valid.
    """

    name: str
    index: int
    address: IpAddress
    like: str = ""

    def describe(self) -> str:
        return f"add address {self.address.address} to {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return TakeAddress(self.name, self.index, self.address)

    def shell(self) -> tuple[str, ...]:
        add: tuple[str, ...] = ("ip", "address", "add")
        if ":" in self.address.address and not self.address.flags & NODAD:
            add = ("undetected",)
        times = [
            f'{word} "$(left {until})"'
            for word, until in (("valid_lft", self.address.valid), ("preferred_lft", self.address.preferred))
            if until is not None
        ]
        return (" ".join([line(*add, *_address(self.address), "dev", self.name), *times]),)


@frozen
class TakeAddress:
    """Take an address from an interface. `moved`: another one has it from now on, which knows how long it is valid."""

    name: str
    index: int
    address: IpAddress
    moved: str = ""

    def describe(self) -> str:
        return f"delete address {self.address.address} from {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return PutAddress(self.name, self.index, self.address, self.moved)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "address", "del", *_plain(self.address), "dev", self.name),)


@frozen
class PutRoute:
    """Add a route with all that belongs to it, after those to the same destination; no error if it is there.

    `like`: an interface through which there is the same one, where somebody may have renewed the time that it has.
    """

    route: IpRoute
    like: str = ""

    def describe(self) -> str:
        return f"route {_named(self.route)}"

    def inverse(self, before: Facts) -> Step | None:
        return TakeRoute(self.route)

    def shell(self) -> tuple[str, ...]:
        until = "" if self.route.expires is None else f' expires "$(left {self.route.expires})"'
        return (line("reroute", *_route(self.route)) + until,)


@frozen
class TakeRoute:
    """Delete a route. `moved`: it goes through another interface from now on, which knows how long."""

    route: IpRoute
    moved: str = ""

    def describe(self) -> str:
        return f"delete route {_named(self.route)}"

    def inverse(self, before: Facts) -> Step | None:
        return PutRoute(self.route, self.moved)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "route", "del", *_route(self.route)),)


def _plain(address: IpAddress) -> tuple[str, ...]:
    if address.peer is None:
        return (address.address,)
    plain, _, prefix = address.address.partition("/")
    return (plain, "peer", f"{address.peer}/{prefix}")


def _address(address: IpAddress) -> tuple[str, ...]:
    words = [*_plain(address)]
    words += ["broadcast", address.broadcast] if address.broadcast else []
    words += ["label", address.label] if address.label else []
    words += ["scope", _SCOPES.get(address.scope, str(address.scope))] if address.scope else []
    words += ["metric", str(address.metric)] if address.metric else []
    known = ((NODAD, "nodad"), (0x10, "home"), (0x100, "mngtmpaddr"), (0x400, "autojoin"))
    words += [word for flag, word in (*known, (NO_PREFIX_ROUTE, "noprefixroute")) if address.flags & flag]
    return tuple(words)


def _named(route: IpRoute) -> str:
    destination = "default" if route.destination.endswith("/0") else route.destination
    via = next((f" via {way.gateway}" for way in route.ways if way.gateway), "")
    table = "" if route.table == MAIN else f", table {route.table}"
    return f"{destination}{via} through {', '.join(dict.fromkeys(way.device for way in route.ways))}{table}"


def _route(route: IpRoute) -> list[str]:
    """Return the words of ip-route(8) for a route."""
    words = [route.destination] if route.kind == UNICAST else [_KINDS.get(route.kind, "unicast"), route.destination]
    words += ["from", route.sender] if route.sender else []
    words += ["tos", f"{route.tos:#04x}"] if route.tos else []
    words += ["table", str(route.table)]
    words += ["proto", "kernel" if route.protocol == BY_KERNEL else str(route.protocol)]
    words += ["scope", _SCOPES.get(route.scope, str(route.scope))] if ":" not in route.destination else []
    words += ["metric", str(route.metric)] if route.metric else []
    words += ["src", route.source] if route.source else []
    words += ["pref", _PREFERENCES.get(route.preference, "medium")] if route.preference else []
    words += _limits(route)
    several = len(route.ways) > 1 or any(way.weight > 1 for way in route.ways)
    for way in route.ways:
        words += ["nexthop"] if several else []
        kind = ["inet6"] if way.gateway and ":" in way.gateway and ":" not in route.destination else []
        words += ["via", *kind, way.gateway] if way.gateway else []
        words += ["dev", way.device]
        words += ["weight", str(way.weight)] if several else []
        words += ["onlink"] if way.onlink else []
    return words


def _limits(route: IpRoute) -> list[str]:
    locked = dict(route.options).get(_LOCK, 0)
    words = []
    for number, value in route.options:
        if number in _OPTIONS:
            lock = ["lock"] if locked & 1 << number else []
            words += [_OPTIONS[number], *lock, f"{value}ms" if number == _RTO_MIN else str(value)]
    return words
