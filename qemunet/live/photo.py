"""Photographs the host for a lab: what it shows, with what the runtime directory and the cache know."""

from __future__ import annotations

from qemunet.facts import GuestFact
from qemunet.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts, Wanted
    from qemunet.host.linux import LinuxHost
    from qemunet.state import Runtime


def photograph(runtime: Runtime, wanted: Wanted, host: LinuxHost) -> Facts:
    """Return what the host shows and what the runtime directory and the cache know."""
    facts = host.photograph(wanted)
    guest = _guest() if wanted.guest else None
    networks = runtime.networks() if wanted.networks else {}
    return replace(facts, claims=runtime.claims(), scopes=runtime.shared(), networks=networks, guest=guest)


def _guest() -> GuestFact | None:
    from qemunet.guest import image

    found = image.find()
    if found is None:
        return None
    public = image.is_public(found.kernel) and image.is_public(found.initrd)
    return GuestFact(found.kernel, found.initrd, found.append, public)
