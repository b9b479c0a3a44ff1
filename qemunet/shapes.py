"""The values that the Python API takes and gives: cards, what becomes of them, events, and how a guest ended."""

from __future__ import annotations

import os
import typing

from qemunet.errors import NotFound, TimedOut, UsageError
from qemunet.frozen import as_dict, fields, frozen
from qemunet.records import NicRecord

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Message = Mapping[str, object]  # a keeper's line

Path = str | os.PathLike[str]
T = typing.TypeVar("T")

_PATHS = ("ifup", "ifdown", "tftp")  # relative to where this process is, not to the lab file


class Named(dict[str, T]):
    """Things by name; for one that is not there the error is NotFound, which says which are."""

    def __init__(self, what: str, there: Mapping[str, T]) -> None:
        super().__init__(there)
        self._what = what

    def __missing__(self, name: str) -> T:
        raise NotFound(f'{self._what} "{name}" (there: {", ".join(self) or "none"})')


@frozen
class Address:
    """An address of a card in the guest, and who says so: ``guest``, ``neighbour`` or ``file``."""

    address: str
    source: str


@frozen
class Nic(NicRecord):
    """A card as it was when this value was made.

    `id`, `mode`, `model`, `mac`, `link` (up, down), `network`, `bridge`, `slot`, `state` (plugged, unplugging, or
    disconnected); `ifname` and `host_mac` are those of its host side, which is in the namespace `netns` of the lab
    if that is not None; `device` is the PCI device of the host that it is. `ips` is what the lab file says. What is
    known of it in the guest: its name there, `guest_ifname`, and its `addresses`. `presence` tells of a card just
    plugged in or changed whether the guest has it: ``there``, or ``paused`` and ``not-booted``: it cannot know yet;
    None: nobody looked.
    """

    guest_ifname: str | None = None
    addresses: tuple[Address, ...] = ()
    presence: str | None = None

    @classmethod
    def from_row(cls, row: object, **more: object) -> typing.Self:
        """Return the card that a row of a keeper's answer describes."""
        assert isinstance(row, dict), "the keeper describes the card"
        return cls(**{**as_dict(NicRecord.from_dict(row)), **more})

    @classmethod
    def list_from(cls, reply: Message) -> dict[str, Nic]:
        """Return the cards of a keeper's answer to ``nics`` by their ids."""
        rows, known = reply["nics"], reply.get("known", {})
        assert isinstance(rows, list), "one row for each card"
        assert isinstance(known, dict), "by address"
        return {row["id"]: cls.from_row(row, **_seen(known.get(row["mac"], {}))) for row in rows}

    @classmethod
    def plugged(cls, reply: Message, vm: str, seconds: float) -> Nic:
        """Return the card of an answer to ``nic-add`` or ``nic-set``; raises TimedOut if the guest does not take it."""
        words = {"guest_ifname": reply.get("guest_ifname"), "presence": reply["presence"]}
        nic = cls.from_row(reply["nic"], **words)
        if nic.presence == "unseen":
            raise unseen(vm, nic, seconds)
        return nic


class NicKeys(typing.TypedDict, total=False):
    """What a card is made of: the keys of a ``[[vm.NAME.nic]]``, with ``_`` for ``-`` (docs/lab-file.md).

    None stands for a key that is not given.
    """

    id: str | None
    mode: str | None
    network: str | None
    bridge: str | None
    address: Sequence[str] | None
    routes: Sequence[str] | None
    parent: str | None
    macvtap: str | None
    host_macvlan: bool | None
    adopt: bool | None
    listen: str | None
    connect: str | None
    group: str | None
    local: str | None
    path: Path | None
    device: str | None
    model: str | None
    mac: str | None
    mac_prefix: str | None
    link: str | None
    queues: int | typing.Literal["auto"] | None
    vhost: str | None
    mtu: int | None
    boot_index: int | None
    acpi_index: int | None
    ip: Sequence[str] | None
    gateway: Sequence[str] | None
    rate: Mapping[str, str] | None
    impair: Mapping[str, str] | None
    guard: str | None
    port_isolation: bool | None
    port_profile: str | None
    vlan: Mapping[str, object] | None
    ifname: str | None
    ifup: Path | None
    ifdown: Path | None
    forward: Sequence[str] | None
    restrict: bool | None
    subnet: str | None
    hostname: str | None
    dns: str | None
    tftp: Path | None
    bootfile: str | None


@frozen
class Change:
    """What `apply` did, or would do: `disruption` is live, replug or restart; what takes a restart is never `done`.

    It is about a vm or a network.
    """

    vm: str | None
    what: str
    disruption: str
    done: bool
    network: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, typing.Any]) -> typing.Self:
        """Read a row of a keeper's answer, which may have more."""
        return cls(**{name: row[name] for name in fields(cls) if name in row})


@frozen
class Event:
    """Something that happened (docs/events.md); `kind` is its ``event``, `details` has the keys of that kind."""

    kind: str
    time: float
    lab: str
    vm: str | None
    details: Mapping[str, typing.Any]

    @property
    def what(self) -> str | None:
        """The word that most kinds have; None for the others."""
        return self.details.get("what")

    @classmethod
    def from_line(cls, line: Message) -> Event:
        """Read a line of a keeper's."""
        named = ("event", "time", "lab", "vm")
        kind, time, lab, vm = (line[name] for name in named)
        assert isinstance(time, int | float), "seconds since the epoch"
        details = {name: value for name, value in line.items() if name not in named}
        return cls(str(kind), float(time), str(lab), None if vm is None else str(vm), details)


@frozen
class Ending:
    """How a guest ended: QEMU's exit `status` (negative: a signal; None: nobody saw it), a word and a sentence."""

    status: int | None
    reason: str
    text: str

    @classmethod
    def from_event(cls, event: Message) -> Ending:
        """Read an event ``ended``."""
        status = event["status"]
        return cls(status if isinstance(status, int) else None, str(event["reason"]), str(event["text"]))


@frozen
class Status:
    """A guest as its keeper sees it: `state` is QEMU's word, `since` in seconds since the epoch."""

    vm: str
    pid: int
    state: str
    since: float
    adopted: bool

    @classmethod
    def from_row(cls, row: Mapping[str, typing.Any]) -> typing.Self:
        """Read a row of a keeper's answer, which may have more."""
        return cls(**{name: row[name] for name in fields(cls)})


def keys_of(given: Mapping[str, object]) -> dict[str, object]:
    """Return what a card is made of as a lab file has it: ``-`` for ``_``, paths from where this process is.

    What is None is not given.
    """
    keys = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    keys |= {name: list(value) for name, value in keys.items() if isinstance(value, tuple)}
    return keys | {name: os.path.abspath(os.fspath(typing.cast("Path", keys[name]))) for name in _PATHS if name in keys}


def link_word(up: object) -> str:
    """Return ``up`` or ``down`` for that word, or for True or False; raises UsageError for anything else."""
    from qemunet.model.nic import LinkState

    word = ("down", "up")[up] if isinstance(up, bool) else up
    if not isinstance(word, str) or word not in tuple(LinkState):
        raise UsageError(f"a cable is up or down, not {up!r}", hint='True or "up", False or "down"')
    return str(LinkState(word))


def unseen(vm: str, nic: NicRecord, seconds: float) -> TimedOut:
    """Return the error for a card that a guest that runs has not taken."""
    return TimedOut(
        f"{nic.id} is plugged in, and no driver of the guest has taken it within {seconds:g} s",
        where=f"vm.{vm}",
        hint=f"has its kernel hot-plug, and a driver for {nic.model}? "
        f"`qemunet nic del {vm} {nic.id}` takes it out again",
    )


def _seen(known: object) -> dict[str, object]:
    """Return what is known of a card in the guest."""
    found = known if isinstance(known, dict) else {}
    addresses = tuple(Address(str(ip["address"]), str(ip["source"])) for ip in found.get("ip", ()))
    return {"guest_ifname": found.get("guest_ifname"), "addresses": addresses}


def id_of(nic: Nic | str) -> str:
    """Return the id of a card, or the word that stands for one."""
    return nic if isinstance(nic, str) else nic.id


def absolute(path: Path) -> str:
    """Return a path that does not depend on where this process is."""
    return os.path.abspath(os.fspath(path))
