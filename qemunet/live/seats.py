"""Remembers where a guest's cards were and where new ones sit, until the guest has them.

Theory of operation. A guest is asked for a card by a bit of its machine's that stays set until it lets go. Whatever
else happens to its slots meanwhile, a card that comes or the same request again, has its kernel note that bit once
more, so that it may have noted several requests for one place: the first takes out the card that was meant, the next
whatever sits there by then. All of them come before the kernel hears of the next card. Hence a place that was left
lately is taken last, and a card that goes before a driver had it, from such a place, was not meant.
"""

from __future__ import annotations

import asyncio
import typing

if typing.TYPE_CHECKING:
    from qemunet.plan.words import Json


class Newcomer:
    """A card that a guest is about to get: at `slot`, which another one has left before if it is `second_hand`.

    `seat` is the place that it has to have, if not any will do. `out` is set when it is gone again, and `asked` then
    tells that a command of ours wanted that. It `rests` while its guest stands still and nobody waits for it.
    """

    def __init__(self, slot: str, seat: dict[str, Json] | None, *, second_hand: bool) -> None:
        self.slot = slot
        self.seat = seat
        self.second_hand = second_hand
        self.asked = False
        self.rests = False
        self.out = asyncio.Event()


class Seats:
    """The places of all guests; may be read and told of cards that come from any thread, the rest in the loop's."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[str, ...]] = {}
        self._new: dict[tuple[str, str], Newcomer] = {}

    def left(self, vm: str) -> tuple[str, ...]:
        """Return the places that cards have left and no driver has had a card at since, the latest last."""
        return self._left.get(vm, ())

    def sit(self, vm: str, nic: str, slot: str, seat: dict[str, Json] | None = None) -> Newcomer:
        """Note that a card is about to be plugged in."""
        self._new[vm, nic] = newcomer = Newcomer(slot, seat, second_hand=slot in self.left(vm))
        return newcomer

    def newcomer(self, vm: str, nic: str) -> Newcomer | None:
        """Return a card that the guest may not have yet."""
        return self._new.get((vm, nic))

    def resting(self, vm: str) -> list[str]:
        """Return the ids of the cards that nobody waits for, since the guest stands still."""
        return [nic for (name, nic), newcomer in list(self._new.items()) if name == vm and newcomer.rests]

    def settle(self, vm: str, nic: str, newcomer: Newcomer, *, taken: bool = False) -> None:
        """Note that a card is no newcomer any more: `taken` by a driver, or not waited for."""
        if self._new.get((vm, nic)) is newcomer:
            del self._new[vm, nic]
        if taken:
            self._left[vm] = self._others(vm, newcomer.slot)

    def leave(self, vm: str, nic: str, slot: str) -> None:
        """Note that the card at a place is gone; QEMU may say so when the next one sits there already."""
        self._left[vm] = (*self._others(vm, slot), slot)
        for (name, other), newcomer in list(self._new.items()):
            if name == vm and other != nic and newcomer.slot == slot:
                newcomer.second_hand = True

    def forget(self, vm: str) -> None:
        """Note that a guest begins anew."""
        self._left.pop(vm, None)
        for key in [key for key in self._new if key[0] == vm]:
            del self._new[key]

    def _others(self, vm: str, slot: str) -> tuple[str, ...]:
        return tuple(one for one in self.left(vm) if one != slot)
