"""What happens to the guests of one keeper, told to every connection that asked for it; nothing is kept."""

from __future__ import annotations

import time
import typing

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.live.server import Peer

# what a listener is told whose keeper was lost
UNHEARD: Message = {"what": "keeper", "text": "the connection broke, and what happened meanwhile is not known"}


class Bus:
    """Tells events to its subscribers, each of which hears of one vm or of all. For the thread of the loop only."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self._subscribers: dict[Peer, str | None] = {}

    def subscribe(self, peer: Peer, vm: str | None) -> None:
        """Tell this connection from now on what happens to `vm`; None: to all."""
        self._subscribers[peer] = vm

    def lost(self, peer: Peer) -> None:
        """Forget a connection that has ended."""
        self._subscribers.pop(peer, None)

    def __bool__(self) -> bool:
        """Tell whether anybody listens."""
        return bool(self._subscribers)

    def tell(self, kind: str, vm: str | None, details: Message) -> None:
        """Tell all whom it concerns; an event without a vm concerns everybody."""
        if not self._subscribers:
            return
        event = self.event(kind, vm, details)
        for peer, wanted in list(self._subscribers.items()):
            if vm is None or wanted in (None, vm):
                peer.tell(event)

    def event(self, kind: str, vm: str | None, details: Message) -> Message:
        """Return the line of an event that happens now (seconds since the epoch)."""
        return line(kind, self.lab, vm, details)


def line(kind: str, lab: str, vm: str | None, details: Message) -> Message:
    """Return the line of an event that happens now, for a keeper, or for what none could tell."""
    return {"event": kind, "time": round(time.time(), 6), "lab": lab, "vm": vm, **details}
