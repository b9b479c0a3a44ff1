"""What is written down of a guest that runs, and of its cards: what the tables show, as JSON."""

from __future__ import annotations

import json

from qemunet.errors import NotFound
from qemunet.frozen import as_dict, frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@frozen
class NicRecord:
    """A card as the tables show it."""

    id: str
    mode: str
    model: str
    mac: str
    link: str
    ifname: str | None = None
    host_mac: str | None = None
    network: str | None = None
    bridge: str | None = None
    ips: tuple[str, ...] = ()
    slot: str | None = None
    state: str = "plugged"  # plugged | unplugging | disconnected (which is seen, never written)
    port_isolation: bool = False
    guard: str = "off"
    vlan: str | None = None  # as the command line has it
    netns: str | None = None  # of the lab, that the host side is in
    device: str | None = None  # of the host, that the guest has

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NicRecord:
        """Read what `as_dict` made, by way of JSON."""
        return cls(**{**data, "ips": tuple(data["ips"])})


@frozen
class VmRecord:
    """A guest as the tables show it. `tethered`: it ends with the terminal that started it.

    `depends` are the vms of its lab that end after it.
    """

    name: str
    lab: str
    file: str
    machine: str
    accel: str
    nics: tuple[NicRecord, ...]
    pid: int | None = None
    start_time: int | None = None
    tethered: bool = False
    started: bool = False
    depends: tuple[str, ...] = ()
    state: str = "starting"  # filled in when read: starting | running | dead

    @classmethod
    def from_json(cls, text: str) -> VmRecord:
        """Read what `as_json` wrote."""
        data = json.loads(text)
        nics = tuple(NicRecord.from_dict(nic) for nic in data.pop("nics"))
        return cls(nics=nics, depends=tuple(data.pop("depends", ())), **data)

    def card(self, nic: str) -> NicRecord:
        """Return the card of that id; raises NotFound, which says which there are."""
        found = next((one for one in self.nics if one.id == nic), None)
        if found is None:
            known = ", ".join(one.id for one in self.nics) or "none"
            raise NotFound(f'{self.name} has no card "{nic}" (it has: {known})')
        return found

    def as_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps({**as_dict(self), "nics": [as_dict(nic) for nic in self.nics]}) + "\n"
