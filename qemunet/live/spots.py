"""Where expectations are tried from, and what they are about: a guest, a namespace of the lab, the host."""

from __future__ import annotations

import contextlib
import ipaddress
import typing
from abc import ABC, abstractmethod

from qemunet.config import modes, spaces, whereabouts
from qemunet.config.hints import listed
from qemunet.errors import Failed, NotFound, Taken
from qemunet.host.attempts import Attempt, Reach
from qemunet.model.expect import AtNetns, AtVm, Elsewhere, Family, word

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from qemunet.config.spec import LabSpec
    from qemunet.host.netns import Place
    from qemunet.model.expect import Source, Target
    from qemunet.state import Runtime

    Arrived = Callable[[], bool]

Card = typing.TypeVar("Card")


class Unproven(Failed):
    """Nothing would show that something does not get through: the target would not have answered anyway."""


class Spot(ABC):
    """A place with addresses, from which others can be tried, and which can be tried. Each attempt blocks."""

    name: str

    @abstractmethod
    def addresses(self, network: str | None = None) -> list[str]:
        """Return the addresses that others may reach it at, only those on a network if one is named."""

    @abstractmethod
    def families(self) -> set[Family]:
        """Return the kinds of addresses that it has and could send from."""

    @abstractmethod
    def ping(self, address: str, seconds: float) -> Attempt:
        """Send echo requests until one is answered."""

    @abstractmethod
    def connect(self, address: str, port: int, seconds: float) -> Attempt:
        """Open a connection, and close it again."""

    @abstractmethod
    def send(self, address: str, port: int, token: bytes, seconds: float) -> Attempt:
        """Send datagrams with a token, for so long; it got through if any was answered."""

    @abstractmethod
    def ask_dhcp(self, network: str | None, seconds: float) -> Attempt:
        """Ask for an address on every card, or on those on a network, without giving up what it has."""

    @abstractmethod
    def listening(self, address: str, port: int, *, may_listen: bool) -> contextlib.AbstractContextManager[None]:
        """See to it that somebody takes connections there meanwhile; raises Unproven if nobody does."""

    @abstractmethod
    def receiving(self, address: str, port: int, token: bytes) -> contextlib.AbstractContextManager[Arrived]:
        """Give what tells whether a datagram with the token has arrived meanwhile."""


class InPlace(Spot):
    """A namespace. `cards` are its interfaces that belong to the lab, and the network that each leads to."""

    def __init__(self, name: str, place: Place, cards: Mapping[str, str | None]) -> None:
        self.name = name
        self._place = place
        self._cards = cards

    def addresses(self, network: str | None = None) -> list[str]:
        found = self._all()
        names = [name for name, leads in self._cards.items() if network is None or leads == network]
        return [address for name in dict.fromkeys(names) for address in found.get(name, ())]

    def families(self) -> set[Family]:
        return {family(address) for addresses in self._all().values() for address in addresses}

    def ping(self, address: str, seconds: float) -> Attempt:
        from qemunet.host import attempts

        known = attempts.resolved(self._place, address)
        return known if isinstance(known, Attempt) else attempts.ping(self._place, known, seconds)

    def connect(self, address: str, port: int, seconds: float) -> Attempt:
        from qemunet.host import attempts

        return attempts.connect(self._place, address, port, seconds)

    def send(self, address: str, port: int, token: bytes, seconds: float) -> Attempt:
        from qemunet.host import attempts

        return attempts.send(self._place, address, port, token, seconds)

    def ask_dhcp(self, network: str | None, seconds: float) -> Attempt:
        from qemunet.host import dhcpask

        names = [name for name, leads in self._cards.items() if leads is not None and network in (None, leads)]
        return any_of(names, lambda name: dhcpask.offered(self._place, name, seconds), self.name)

    @contextlib.contextmanager
    def listening(self, address: str, port: int, *, may_listen: bool) -> Iterator[None]:
        from qemunet.host import attempts

        if not may_listen:
            yield
            return
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Taken):  # then somebody listens
                stack.enter_context(attempts.listening(self._place, address, port))
            yield

    @contextlib.contextmanager
    def receiving(self, address: str, port: int, token: bytes) -> Iterator[Arrived]:
        from qemunet.host import attempts

        try:
            with attempts.receiving(self._place, address, port, token) as arrived:
                yield arrived
        except Taken as taken:
            raise Unproven(f"{taken}, so nobody can tell what arrives there") from taken

    def _all(self) -> dict[str, list[str]]:
        """Return the addresses by interface that others may use."""
        from qemunet.host import addresses, netlink

        net = netlink.Netlink(self._place.inside(netlink.open_socket))
        try:
            every = addresses.addresses(net)
        finally:
            net.close()
        return {name: [plain(one) for one in found if is_reachable(one)] for name, found in every.items()}


def any_of(cards: Iterable[Card], ask: Callable[[Card], Attempt], name: str) -> Attempt:
    """Ask on one card after the other until one gets through; what is said of the others is said of all."""
    failed: list[Attempt] = []
    for card in cards:
        found = ask(card)
        if found.reach is Reach.THROUGH:
            return found
        failed.append(found)
    if not failed:
        return Attempt(Reach.UNABLE, f"{name} has no such card")
    unable = [one for one in failed if one.reach is Reach.UNABLE]
    return Attempt((unable or failed)[0].reach, "; ".join(one.seen for one in failed))


def family(address: str) -> Family:
    """Return the kind of an address."""
    return Family.IPV6 if ":" in address else Family.IPV4


def plain(cidr: str) -> str:
    """Return an address without its prefix length."""
    return cidr.partition("/")[0]


def is_reachable(cidr: str) -> bool:
    """Tell whether an address means anything to others: none of a loopback, and none that a link has by itself."""
    found = ipaddress.ip_interface(cidr)
    return not (found.is_loopback or found.is_link_local)


# ---------------------------------------------------------------- those of a lab


class Spots:
    """The places of a lab that runs. Raises NotFound, which lists all of `ends` that are not there."""

    def __init__(self, here: Runtime, spec: LabSpec, ends: Iterable[Source | Target]) -> None:
        self._here = here
        self._spec = modes.expanded(spaces.expanded(spec))
        wanted = list(dict.fromkeys(end for end in ends if not isinstance(end, Elsewhere)))
        absent = [word(end) for end in wanted if not self._is_there(end)]
        if absent:
            what = f"{listed(absent)} of lab {spec.name} {'does' if len(absent) == 1 else 'do'} not run"
            raise NotFound(what, where=spec.file, hint=f"`qemunet up {spec.file}` starts what a lab lacks")
        self._known = {end: self._spot(end) for end in wanted}

    def find(self, end: Source | Target) -> Spot | None:
        """Return the place of an end, None for one beyond the lab."""
        return None if isinstance(end, Elsewhere) else self._known[end]

    def _is_there(self, end: Source | Target) -> bool:
        from qemunet.host import spaces as held

        match end:
            case AtVm(name):
                found = self._here.scope(f"vm/{name}").record()
                return found is not None and found.lab == self._spec.name and found.state == "running"
            case AtNetns(name):
                return held.is_there(self._here.path, name)
        return True

    def _spot(self, end: Source | Target) -> Spot:
        from qemunet.host import spaces as held

        match end:
            case AtVm(name):
                from qemunet.live.guestspot import InGuest

                return InGuest(self._here, name)
            case AtNetns(name):
                return InPlace(name, held.place(self._here.path, name), whereabouts.of_netns(self._spec, name))
        return InPlace("host", held.place(self._here.path, None), whereabouts.of_host(self._spec))
