"""What is known of a guest's cards while it runs: what the guest calls them, which addresses they have, says who.

The guest itself knows best, if it is one that tells (`qemunet.live.agent`). Else a network of ours has lent it an
address. Else the host has seen addresses where it has one on the same wire: on the card's bridge, or at the other end
of a point-to-point tap. Else there is what the lab file says that the guest shall have.
"""

from __future__ import annotations

import asyncio
import typing
from enum import StrEnum
from types import MappingProxyType

from qemunet.frozen import frozen
from qemunet.live import leases
from qemunet.live.presence import Presence

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qemunet.live.agent import GuestCard
    from qemunet.live.control import Message
    from qemunet.live.process import Guest
    from qemunet.records import NicRecord

NAMING = 1.0  # seconds from a driver's taking a card until the guest has told its name


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
        _told(guest), asyncio.to_thread(neighbours, rows), asyncio.to_thread(leases.of_cards, guest.directory, rows)
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


def neighbours(rows: Iterable[NicRecord]) -> dict[str, tuple[str, ...]]:
    """Return the addresses under which the host has talked to cards with a tap, by MAC; blocks for milliseconds."""
    from qemunet.host import neighbours, netlink

    taps = [(row.mac, row.bridge or row.ifname) for row in rows if row.mode == "tap" and not row.netns]
    if not taps:
        return {}
    net = netlink.Netlink(netlink.open_socket())
    try:
        known = {name: neighbours.addresses(net, name) for name in {name for _, name in taps if name}}
    except OSError:  # it is no more than one source of several
        return {}
    finally:
        net.close()
    found = ((mac, known.get(name or "", {}).get(mac, ())) for mac, name in taps)
    return {mac: addresses for mac, addresses in found if addresses}


async def _told(guest: Guest) -> Mapping[str, GuestCard]:
    """Return what the guest says now; what it said last if it does not run, or not answer."""
    if guest.agent is None:
        return {}
    runs = await guest.run_state() in ("running", "unknown")
    return await guest.agent.fresh() if runs else guest.agent.cards()
