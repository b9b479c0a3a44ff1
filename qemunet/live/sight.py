"""What is known of a guest's cards while it runs: what the guest calls them, which addresses they have, says who.

The guest itself knows best, if it is one that tells (`qemunet.live.agent`). Else a network of ours has lent it an
address. Else the host has seen addresses where it has one on the same wire: on the card's bridge, or at the other end
of a point-to-point tap. Else there is what the lab file says that the guest shall have.
"""

from __future__ import annotations

import asyncio
import os
import typing
from enum import StrEnum
from types import MappingProxyType

from qemunet.frozen import frozen
from qemunet.live import leases
from qemunet.live.presence import Presence

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from qemunet.live.agent import GuestCard
    from qemunet.live.control import Message
    from qemunet.live.process import Guest
    from qemunet.records import NicRecord

NAMING = 5.0  # seconds from a driver's taking a card until the guest has told its name


class Source(StrEnum):
    """Who says that a card has an address."""

    GUEST = "guest"  # itself, just now
    LEASE = "lease"  # the network that it is on has lent it
    NEIGHBOUR = "neighbour"  # the host has talked to it under that address
    FILE = "file"  # the lab file: it shall have it


@frozen
class Sight:
    """What is known of one card; without the guest's name for it if the guest does not tell."""

    guest_ifname: str | None
    addresses: tuple[str, ...]
    source: Source

    def as_message(self) -> Message:
        """Return it as the verb ``nics`` gives it."""
        ips = [{"address": address, "source": self.source.value} for address in self.addresses]
        return {"guest_ifname": self.guest_ifname, "ip": ips}


async def look(guest: Guest, rows: Sequence[NicRecord]) -> dict[str, Sight]:
    """Return what is known of the cards of a guest, by their MACs: those of the `rows`, and others that it tells of."""
    told, seen, lent = await asyncio.gather(
        _told(guest),
        asyncio.to_thread(neighbours, rows, guest.directory),
        asyncio.to_thread(leases.of_cards, guest.directory, rows),
    )
    return combined(rows, told, seen, lent)


async def named(guest: Guest, row: NicRecord, presence: Presence) -> str | None:
    """Return what the guest calls a card that was plugged in or changed; waits only for a guest that tells such."""
    if guest.agent is None or presence is not Presence.THERE:
        return None
    return await guest.agent.name(row.mac, NAMING)


def combined(
    rows: Iterable[NicRecord],
    told: Mapping[str, GuestCard],
    seen: Mapping[str, tuple[str, ...]],
    lent: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> dict[str, Sight]:
    """Return for each MAC what the best source says.

    The guest has `told`, its network has `lent`, the host has `seen`, the rows have a file.

    A guest that knows a card of no address has none on it, whatever else was seen or wished.
    """
    found = {mac: Sight(card.name, card.addresses, Source.GUEST) for mac, card in told.items()}
    for row in rows:
        sources = ((lent, Source.LEASE), (seen, Source.NEIGHBOUR), ({row.mac: row.ips}, Source.FILE))
        known, source = next(one for one in sources if row.mac in one[0])
        found.setdefault(row.mac, Sight(None, known[row.mac], source))
    return found


def neighbours(rows: Iterable[NicRecord], directory: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses under which the host has talked to cards with a tap, by MAC; blocks for milliseconds.

    In a namespace that is the host which that one plays. `directory` is the vm's.
    """
    taps = [(row.netns, row.mac, row.bridge or row.ifname) for row in rows if row.mode == "tap"]
    runtime = os.path.dirname(os.path.dirname(directory))
    names: dict[str | None, set[str]] = {}
    for netns, _, name in taps:
        names.setdefault(netns, set()).update([name] if name else [])
    seen = {netns: _neighbours(runtime, netns, some) for netns, some in names.items()}
    found = ((mac, seen[netns].get(name or "", {}).get(mac, ())) for netns, mac, name in taps)
    return {mac: addresses for mac, addresses in found if addresses}


def _neighbours(runtime: str, netns: str | None, names: AbstractSet[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return what was seen at these interfaces; the socket is closed at once, for it would keep the namespace."""
    from qemunet.host import neighbours, netlink, spaces

    try:
        net = netlink.Netlink(spaces.place(runtime, netns).inside(netlink.open_socket))
    except OSError:  # it has just gone
        return {}
    try:
        return {name: neighbours.addresses(net, name) for name in names}
    except OSError:  # it is no more than one source of several
        return {}
    finally:
        net.close()


async def _told(guest: Guest) -> Mapping[str, GuestCard]:
    """Return what the guest says now; what it said last if it does not run, or not answer."""
    if guest.agent is None:
        return {}
    runs = await guest.run_state() in ("running", "unknown")
    return await guest.agent.fresh() if runs else guest.agent.cards()
