"""Looks at the namespaces of labs that are up: what is in each, and who uses it."""

from __future__ import annotations

from qemunet.config import read
from qemunet.errors import ConfigError, Gone
from qemunet.frozen import frozen
from qemunet.host import addresses, links, spaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.host.linux import LinuxHost
    from qemunet.state import Runtime, Scope


@frozen
class Interface:
    """An interface in a namespace, and its addresses (CIDR)."""

    ifname: str
    up: bool
    addresses: tuple[str, ...]


@frozen
class Seen:
    """A namespace as it is: `state` is up, starting or gone. What uses it: switches, cables and guests by name."""

    name: str
    hostname: str
    named: bool
    state: str
    interfaces: tuple[Interface, ...]
    networks: tuple[str, ...]
    cables: tuple[str, ...]
    guests: tuple[str, ...]
    held: bool


def every(runtime: Runtime, host: LinuxHost) -> list[Seen]:
    """Return all namespaces of the runtime directory."""
    return [_seen(runtime, host, scope) for scope in runtime.scopes("netns")]


def _seen(runtime: Runtime, host: LinuxHost, scope: Scope) -> Seen:
    name = scope.name.partition("/")[2]
    hostname, named = _declared(scope, name)
    there = spaces.is_there(runtime.path, name)
    state = "starting" if scope.fingerprint() is None else "up" if there else "gone"
    users = (scope.networks(), scope.cables(), scope.guests())
    return Seen(name, hostname, named, state, _interfaces(host, name) if there else (), *users, scope.held())


def _declared(scope: Scope, name: str) -> tuple[str, bool]:
    """Return what a namespace was made with: its host name, and whether ``ip netns`` shows it."""
    try:
        found = read.load(scope.path("netns.toml")).netns(name)
    except ConfigError:  # it is only being made
        found = None
    return (name, False) if found is None else (found.hostname or name, found.named is not False)


def _interfaces(host: LinuxHost, name: str) -> tuple[Interface, ...]:
    try:
        with host.within(name) as there:
            known = addresses.addresses(there.net)
            found = sorted(links.everything(there.net), key=lambda link: link.index)
    except (Gone, OSError):  # it has just gone
        return ()
    return tuple(Interface(link.name, link.up, tuple(known.get(link.name, ()))) for link in found)
