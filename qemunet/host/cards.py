"""Plugs and unplugs the cards of a guest that runs, by way of whoever talks to its QEMU."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import time
import typing

from qemunet import interrupts
from qemunet.errors import Failed, Gone, QemunetError, Refused, Taken, TimedOut
from qemunet.host import complaints
from qemunet.steps import (
    AddCard,
    AddChardev,
    AddNetdev,
    DelCard,
    DelChardev,
    DelNetdev,
    Handle,
    SetForwards,
    SetGuestLink,
)

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qemunet.steps import Word

    CardStep = AddNetdev | DelNetdev | AddChardev | DelChardev | AddCard | DelCard | SetGuestLink | SetForwards

_NO_CHARDEV = re.compile(r"Chardev '.*' not found")  # a GenericError
NO_SUCH_DEVICE = "DeviceNotFound"  # QMP's class for an id that QEMU does not have
_STREAM, _GLANCE = 10.0, 0.01  # seconds until a stream has its socket, and between two looks
_INDEX = re.compile(r"bootindex (\d+) has already been used|acpi-index = (\d+) already exist")


class Monitor(typing.Protocol):
    """The control socket of a QEMU that runs, for a thread that may wait for it."""

    def execute(self, command: str, **arguments: object) -> object:
        """Have a command done and return its answer. Raises Refused, NotFound when QEMU is gone, TimedOut."""

    def give(self, fd: int, name: str | None = None) -> str:
        """Hand over a copy of a descriptor; return the name by which QEMU knows it. Raises as `execute` does.

        With a `name` it is known by that for good, which must never be used again.
        """

    def forget(self, name: str) -> None:
        """Have QEMU close what it was given under a name, if it still has it."""

    def unplug(self, nic: str) -> None:
        """Ask the guest for a card until it has let go of it. Raises NotFound if there is none, TimedOut."""


def perform(monitor: Monitor, step: CardStep, handles: Mapping[str, Sequence[int]], runtime: str = "") -> None:
    """Do a step; what QEMU is to get open lies in `handles`, and is closed by whoever opened it.

    Raises Refused with QEMU's own words, Taken if somebody has a port that it wants, Gone if there is nothing to undo,
    NotFound if QEMU does not answer.
    """
    match step:
        case AddNetdev():
            _add_netdev(monitor, step, handles, runtime)
        case DelNetdev():
            _del_netdev(monitor, step, runtime)
        case AddChardev():
            _add_chardev(monitor, step)
        case DelChardev(netdev=netdev):
            with _gone_if_missing():
                monitor.execute("chardev-remove", id=netdev)
        case AddCard(properties=properties):
            _add_card(monitor, step.vm, properties)
        case DelCard(nic=nic):
            with _gone_if_missing():
                monitor.unplug(nic)
        case SetGuestLink(nic=nic, up=up, hold=hold):
            monitor.execute("set_link", name=nic, up=up)
            select.select([], [], [], hold)
        case SetForwards():
            _set_forwards(monitor, step)


def _add_netdev(monitor: Monitor, step: AddNetdev, handles: Mapping[str, Sequence[int]], runtime: str) -> None:
    wanted = [part.name for part in step.properties.parts if isinstance(part, Handle)]
    given: dict[str, list[str]] = {}
    try:
        for name in wanted:
            for fd in handles[name]:
                given.setdefault(name, []).append(
                    monitor.give(fd, _lasting(step.netdev, os.fstat(fd).st_ino) if step.numbered else None)
                )
        known = {name: _numbers(step.vm, handles[name], runtime) for name in wanted} if step.numbered else given
        monitor.execute("netdev_add", **json.loads(_spelled(step.properties, known)))
    except QemunetError as error:
        for name in (one for names in given.values() for one in names):
            with contextlib.suppress(QemunetError):
                monitor.forget(name)
        if isinstance(error, Refused):
            _refuse_duplicate(step.vm, error)
            if story := complaints.meant(step.vm, error.message):
                raise story from error
        raise
    if step.numbered:
        _await_stream(monitor, step, [fd for name in wanted for fd in handles[name]])


def _add_chardev(monitor: Monitor, step: AddChardev) -> None:
    address = {"type": "unix", "data": {"path": step.path}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    try:
        monitor.execute("chardev-add", id=step.netdev, backend=backend)
    except Refused as error:
        raise complaints.meant(step.vm, error.message) or error from error


def _await_stream(monitor: Monitor, step: AddNetdev, fds: Sequence[int]) -> None:
    """Wait until QEMU has taken its sockets: it does so in another thread, and dies if it shall let go before (7.2).

    One that listens shows it only when somebody has connected; for that we do, and leave again.
    """
    from qemunet.host import sockets

    with contextlib.ExitStack() as stack:
        for fd in fds:
            sockets.visit(fd, stack)
        wanted = re.compile(rf"(?m)^ *\\?[^\n]*\b{re.escape(step.netdev)}: index=0,type=stream,\S")
        deadline = time.monotonic() + _STREAM
        while not wanted.search(said := _network(monitor)):
            interrupts.check()
            if time.monotonic() > deadline:
                raise TimedOut(f"QEMU has not taken its socket after {_STREAM:g} s: {said}", where=f"vm.{step.vm}")
            select.select([], [], [], _GLANCE)


def _network(monitor: Monitor) -> str:
    return str(monitor.execute("human-monitor-command", **{"command-line": "info network"}))


def _del_netdev(monitor: Monitor, step: DelNetdev, runtime: str) -> None:
    try:
        with _gone_if_missing():
            monitor.execute("netdev_del", id=step.netdev)
    finally:
        for inode in _sockets(step.vm, runtime) if step.numbered else ():
            monitor.forget(_lasting(step.netdev, inode))


def _sockets(vm: str, runtime: str) -> list[int]:
    """Return the inodes of all sockets that QEMU has."""
    from qemunet.host import guests

    pid = guests.find(f"{runtime}/vm/{vm}")
    try:
        entries = [_opened(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")]
    except FileNotFoundError:  # it has ended
        return []
    return [int(entry[8:-1]) for entry in entries if entry.startswith("socket:[")]


def _lasting(netdev: str, inode: int) -> str:
    """Return the name of a socket that no other one of this kernel has: what QEMU knows by it is that, or is closed."""
    return f"{netdev}-{inode}"


def _numbers(vm: str, fds: Sequence[int], runtime: str) -> list[str]:
    """Return the numbers under which QEMU has sockets (proc_pid_fd(5)).

    It takes a stream's in a thread of its own, where it does not know names (seen in 7.2).
    """
    from qemunet.host import guests

    pid = guests.find(f"{runtime}/vm/{vm}")
    known = {_opened(f"/proc/{pid}/fd/{entry}"): entry for entry in os.listdir(f"/proc/{pid}/fd")}
    return [known[os.readlink(f"/proc/self/fd/{fd}")] for fd in fds]


def _opened(entry: str) -> str:
    try:
        return os.readlink(entry)
    except OSError:  # it was closed meanwhile
        return ""


def _add_card(monitor: Monitor, vm: str, properties: Word) -> None:
    try:
        monitor.execute("device_add", **json.loads(_spelled(properties, {})))
    except Refused as error:
        _refuse_duplicate(vm, error)
        _refuse_index(vm, error)
        if taken := complaints.taken(vm, error.message):
            raise taken from error
        raise


def _refuse_index(vm: str, error: Refused) -> None:
    """Raise Taken if another device has the place in the boot order, or firmware's number."""
    if found := _INDEX.search(error.message):
        key, number = ("boot-index", found[1]) if found[1] else ("acpi-index", found[2])
        hint = f"`--{key}` gives the card another one"
        raise Taken(f"{key} {number} is that of another device", where=f"vm.{vm}", hint=hint) from error


def _refuse_duplicate(vm: str, error: Refused) -> None:
    """Raise Taken if somebody has given that id to a thing of his, which must not be taken back for ours."""
    if error.message.startswith("Duplicate "):
        hint = "--id gives the card another one"
        raise Taken(f"QEMU has one already: {error.message}", where=f"vm.{vm}", hint=hint) from error


def _spelled(word: Word, given: Mapping[str, Sequence[str]]) -> str:
    """Return the text of a word, with the names that QEMU has for the descriptors in it."""
    return "".join(":".join(given[part.name]) if isinstance(part, Handle) else part for part in word.parts)


def _set_forwards(monitor: Monitor, step: SetForwards) -> None:
    """Close and open ports one by one; if one cannot be had, the others are as before."""
    done: list[tuple[str, str]] = []
    try:
        for rule in step.remove:
            _forward(monitor, step, "remove", rule)
            done.append(("add", rule))
        for rule in step.add:
            _forward(monitor, step, "add", rule)
            done.append(("remove", rule))
    except QemunetError:
        for what, rule in reversed(done):
            with contextlib.suppress(QemunetError):
                _forward(monitor, step, what, rule)
        raise


def _forward(monitor: Monitor, step: SetForwards, what: str, rule: str) -> None:
    """Open or close a port; one that is open already is opened anew, or a step half done could not be taken back."""
    said = _hostfwd(monitor, step, what, rule)
    if what == "add" and said and _hostfwd(monitor, step, "remove", rule).endswith("removed"):
        said = _hostfwd(monitor, step, what, rule)
    if (what == "add" and not said) or (what == "remove" and said.endswith(("removed", "not found"))):
        return
    raise complaints.taken(step.vm, said) or Failed(f"QEMU refused to {what} the forward {rule}: {said}")


def _hostfwd(monitor: Monitor, step: SetForwards, what: str, rule: str) -> str:
    """Tell QEMU by its human monitor, which has no other way: silence, or ``removed``, is consent."""
    words = rule if what == "add" else rule.rpartition("-")[0]
    line = f"hostfwd_{what} {step.netdev} {words}"
    return str(monitor.execute("human-monitor-command", **{"command-line": line})).strip()


@contextlib.contextmanager
def _gone_if_missing() -> typing.Iterator[None]:
    """On the way back, what QEMU does not have is as good as taken back."""
    try:
        yield
    except Refused as error:
        if error.error_class != NO_SUCH_DEVICE and not _NO_CHARDEV.fullmatch(error.message):
            raise
        raise Gone(str(error)) from error
