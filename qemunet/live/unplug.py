"""Takes a card from a guest: asks, waits for the word that this very card is gone, and asks again.

Theory of operation. ``device_del`` only says that the guest was asked. It has let go when DEVICE_DELETED names the card
(virtio sends another one before, for its inner half). A request that comes while firmware or an early kernel has the
machine is lost without a word, hence it is repeated; a repeated one does no harm. QEMU may have forgotten a card by
then and not yet said so: that word is waited for, lest it be taken for the end of the next card of that id. Before a
guest has run at all it must not be asked: QEMU would take it for asked until its next reset. A guest may refuse, which
it then says by an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import typing

from qemunet.errors import Failed, Refused, TimedOut, UsageError

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.live.control import Message
    from qemunet.live.process import Guest

_AGAIN = 1.0  # seconds between two requests
_LATE = 2.0  # seconds that the word of a card may take that QEMU does not know any more
_MISSING = "DeviceNotFound"
_GONE, _REFUSED = "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"


async def unplug(guest: Guest, nic: str) -> None:
    """Return when the guest has let go of the card, however long that takes.

    Raises Failed if the guest refuses, UsageError if the machine lets none go, and NotFound when QEMU itself is gone.
    """
    asked = False
    with _heard(guest, nic) as events:
        while True:
            there = await _ask(guest, nic)
            if not there and not asked:
                return
            asked = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN if there else _LATE):
                    if await events.get() == _GONE:
                        return
                    raise Failed(f"the guest does not give up {nic}", where=f"vm.{guest.vm}")
            if not there:
                return


async def within(guest: Guest, nic: str, seconds: float) -> None:
    """Unplug a card in a time that is limited; raises TimedOut, and what `unplug` raises."""
    try:
        async with asyncio.timeout(seconds):
            await unplug(guest, nic)
    except TimeoutError:
        raise TimedOut(f"the guest has not let go of {nic} within {seconds:g} s", where=f"vm.{guest.vm}") from None


async def _ask(guest: Guest, nic: str) -> bool:
    """Ask for the card, if the guest can be asked; tell whether QEMU still has it."""
    if await guest.run_state() == "prelaunch":
        return True
    try:
        await guest.execute("device_del", arguments={"id": nic})
    except Refused as error:
        if error.error_class == _MISSING:
            return False
        if "hotplug" in error.message.lower() and "busy" not in error.message:
            what = f"{nic} cannot be unplugged: {error.message}"
            raise UsageError(what, where=f"vm.{guest.vm}", hint="stop it and take the card out of its file") from error
    except TimedOut:
        pass  # a QEMU that is stopped by a signal, or busy: it will be asked again
    return True


@contextlib.contextmanager
def _heard(guest: Guest, nic: str) -> Iterator[asyncio.Queue[str]]:
    """Collect the names of the events that are about the card, from before the first request on."""
    events: asyncio.Queue[str] = asyncio.Queue()

    def hear(event: Message) -> None:
        data = event.get("data")
        if event["event"] in (_GONE, _REFUSED) and isinstance(data, dict) and data.get("device") == nic:
            events.put_nowait(str(event["event"]))

    guest.hear.append(hear)
    try:
        yield events
    finally:
        guest.hear.remove(hear)
