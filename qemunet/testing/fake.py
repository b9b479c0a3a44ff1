"""A host in memory that refuses what the kernel refuses, for tests of everything that thinks about one.

It starts from a photograph (`Facts`) and is as strict as Linux about names, masters, parents and what is there
already. `FakeHost.fail_at` lets the n-th step fail; `FakeHost.picture` is all there is, for comparing before and after.
Routes that the kernel adds by itself are left out, and so are packets.
"""

from __future__ import annotations

import errno
import json
import os
import typing

from qemunet.config.cards import VFIO
from qemunet.errors import Failed, NotFound, Taken
from qemunet.facts import Facts, FileFact, Wanted
from qemunet.frozen import replace
from qemunet.host.links import Vanished
from qemunet.model.routing import sysctls_of
from qemunet.steps import (
    AddAddress,
    AddCard,
    AddChardev,
    AddLink,
    AddNeighbour,
    AddNetdev,
    AddNetns,
    AddRoute,
    AdoptTap,
    AwaitQemu,
    ChangePort,
    Claim,
    CreateImage,
    DelAddress,
    DelCard,
    DelChardev,
    DelGroup,
    DelLink,
    DelNeighbour,
    DelNetdev,
    DelNetns,
    DelRoute,
    EndDaemon,
    EndQemu,
    Handle,
    In,
    LoadFile,
    NameNetns,
    OpenFile,
    OpenMacvtap,
    OpenOverlay,
    OpenSocket,
    OpenTap,
    PinBridge,
    PlugPort,
    PutAddress,
    PutRoute,
    Reconfigure,
    RemoveFile,
    RemoveImage,
    RemoveSocket,
    Reserve,
    Resume,
    RunHook,
    SetCarrier,
    SetForwards,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetOffload,
    SetPort,
    SetSysctl,
    StartDaemon,
    StartQemu,
    TakeAddress,
    TakeRoute,
    Unclaim,
    UnnameNetns,
    UnplugPort,
    Unreserve,
    WriteFile,
)
from qemunet.testing.guests import FakeGuest, add_to, change_forwards, take_from
from qemunet.testing.kernel import refused
from qemunet.testing.network import FakeNetwork
from qemunet.testing.services import FakeServices, ServiceStep

if typing.TYPE_CHECKING:
    from qemunet.host.cards import CardStep
    from qemunet.steps import Step, Word


class FakeHost(FakeNetwork, FakeServices):
    """A host in memory. `performed` has every step that was done, `hooks` every program that was run."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.facts = facts
        self.files: dict[str, str] = dict.fromkeys(facts.files, "")
        self.handles: dict[str, str] = {}  # to what is open under them
        self.guests: dict[str, FakeGuest] = {}
        self.cables: dict[tuple[str, str], bool] = {}
        self.named: set[str] = set(facts.netns)  # what `ip netns` shows
        self.hooks: list[tuple[str, str]] = []
        self.daemons: set[tuple[str, str]] = set()  # name and directory
        self.offloads: dict[str, bool] = {}
        self.performed: list[Step] = []
        self._faults: dict[int, BaseException] = {}
        self._tried = 0

    def fail_at(self, number: int, error: BaseException) -> None:
        """Let the step of that number (1 is the next one) fail, undone, with this error."""
        self._faults[self._tried + number] = error

    def picture(self) -> dict[str, object]:
        """Return a copy of everything that steps can change."""
        inside = {name: place.picture() for name, place in self.places.items() if isinstance(place, FakeHost)}
        return {"places": inside, "named": sorted(self.named), **self.own_picture()}

    def own_picture(self) -> dict[str, object]:
        """Return the same without namespaces."""
        return {
            "links": {name: replace(link, index=0) for name, link in sorted(self.links.items())},
            "isolated": sorted(self.isolated),
            "vlans": sorted((name, own, str(vlans)) for (name, own), vlans in self.vlans.items()),
            "addresses": {name: sorted(texts) for name, texts in sorted(self.addresses.items()) if texts},
            "neighbours": sorted(self.neighbours.items(), key=repr),
            "routes": sorted(self.routes, key=repr),
            "carried": sorted(map(repr, self.carried_routes)),
            "rates": tuple(dict(sorted(one.items())) for one in (self.buckets, self.impaired, self.diverted)),
            "tables": dict(sorted(self.tables.items())),
            "sysctls": dict(sorted(self.sysctls.items())),
            "files": dict(sorted(self.files.items())),
            "guests": sorted(self.guests),
            "daemons": sorted(self.daemons),
            "handles": sorted(self.handles),
        }

    def photograph(self, wanted: Wanted) -> Facts:
        """Return what `wanted` asks for, over the rest of the photograph that the host started from."""
        known = self.facts.files
        return replace(
            self.facts,
            links={name: link for name in wanted.links if (link := self.find(name))},
            addresses={n: tuple(a) for n, a in self.addresses.items() if a} if wanted.routes else {},
            routes=tuple(self.routes) if wanted.routes else (),
            places=self._places(wanted),
            netns=frozenset(self.named),
            wires=self.wires() if wanted.wires else (),
            ports={name: self.port_macs(name) for name in wanted.bridges},
            carried={name: self.carried(name) for name in wanted.uplinks if name in self.links},
            sysctls={key: self.sysctls[key] for key in self._keys(wanted) if key in self.sysctls},
            files={
                p: known.get(p, FileFact(p, 0, regular=True, readable=True)) for p in wanted.files if p in self.files
            },
        )

    def _places(self, wanted: Wanted) -> dict[str, Facts]:
        there = {name: self.places[name] for name in wanted.places if name in self.places}
        inner = replace(wanted, places=frozenset(), routes=True, wires=True)
        return {name: place.photograph(inner) for name, place in there.items() if isinstance(place, FakeHost)}

    def _keys(self, wanted: Wanted) -> set[str]:
        return {*wanted.sysctls, *(key for name in wanted.uplinks for key in sysctls_of(name))}

    def perform(self, step: Step) -> None:
        """Do one step, or refuse it as `qemunet.host.linux.LinuxHost` would."""
        self._fail_if_asked()
        match step:
            case AddLink() | DelLink() | DelGroup() | SetLink() | SetMaster() | SetPort() | PinBridge() | SetCarrier():
                self.link_step(step)
            case AddAddress() | DelAddress() | AddRoute() | DelRoute() | SetSysctl():
                self.setting_step(step)
            case PlugPort() | UnplugPort() | ChangePort() | PutAddress() | TakeAddress() | PutRoute() | TakeRoute():
                self.port_step(step)
            case AddNeighbour() | DelNeighbour() | SetOffload():
                self._at_link(step)
            case OpenTap() | AdoptTap() | OpenMacvtap() | OpenFile() | LoadFile() | OpenOverlay():
                self._open(step)
            case OpenSocket() | RemoveSocket():
                self._open(step)
            case Claim() | Unclaim() | WriteFile() | RemoveFile() | CreateImage() | RemoveImage():
                self.file_step(step)
            case RunHook() | StartDaemon() | EndDaemon() | Reconfigure() | Reserve() | Unreserve():
                self._programs(step)
            case StartQemu() | EndQemu() | AwaitQemu() | Resume():
                self._guests(step)
            case (
                AddNetdev()
                | DelNetdev()
                | AddChardev()
                | DelChardev()
                | AddCard()
                | DelCard()
                | SetGuestLink()
                | SetForwards()
            ):
                self._cards(step)
            case AddNetns() | DelNetns() | NameNetns() | UnnameNetns() | In():
                self._spaces(step)
            case _:
                self.shape_step(step)
        self.performed.append(step)

    def _fail_if_asked(self) -> None:
        self._tried += 1
        if self._tried in self._faults:
            raise self._faults.pop(self._tried)

    def close(self) -> None:
        """Close every handle: the taps that no guest has go with them."""
        for name in list(self.handles):
            self._release(name)

    # ------------------------------------------------------------ namespaces

    def _spaces(self, step: AddNetns | DelNetns | NameNetns | UnnameNetns | In) -> None:
        match step:
            case AddNetns(name):
                if name in self.places:
                    raise Taken(f"the namespace {name} is there already")
                from qemunet.testing.places import FakePlace

                self.places[name] = FakePlace(self)
            case DelNetns(name):
                there = self.place(name)
                for link in [link for link in there.peers if link in there.links]:
                    there.remove_link(link)
                del self.places[name]
            case NameNetns(name):
                if name in self.named:
                    raise Taken(f"ip netns has a namespace {name} already")
                self.place(name)
                self.named.add(name)
            case UnnameNetns(name):
                if name not in self.named:
                    raise Vanished(errno.ENOENT, f"ip netns shows no {name} of ours")
                self.named.discard(name)
            case In(netns, inner):
                there = self.place(netns)
                assert isinstance(there, FakeHost), "made above"
                there.perform(inner)
            case _:
                typing.assert_never(step)

    def _open(
        self, step: OpenTap | AdoptTap | OpenSocket | RemoveSocket | OpenMacvtap | OpenFile | LoadFile | OpenOverlay
    ) -> None:
        if isinstance(step, RemoveSocket):
            self.handles.pop(step.handle, None)
            if self.files.pop(step.path, None) is None:
                raise Vanished(errno.ENOENT, f"there is no {step.path}")
            return
        if step.handle in self.handles:
            raise Failed(f"the handle {step.handle} is in use")
        match step:
            case OpenTap():
                self.make_tap(step)
                self.handles[step.handle] = step.name
            case AdoptTap(name=name):
                self.adopt_tap(step)
                self.handles[step.handle] = ""
            case OpenSocket():
                self._listen(step)
                self.handles[step.handle] = ""
            case OpenMacvtap(name=name):
                if self.get(name).kind != "macvtap":
                    raise refused(errno.ENOENT, f"{name} is no macvtap")
                self.handles[step.handle] = ""
            case OpenFile(path=path) | LoadFile(path=path) | OpenOverlay(image=path):
                self._must_exist(path)
                self.handles[step.handle] = ""
            case _:
                typing.assert_never(step)

    def _listen(self, step: OpenSocket) -> None:
        path = step.listen.removeprefix("unix:")
        if path != step.listen and path in self.files:
            raise Taken(f"{path} is there already")
        if path != step.listen:
            self.files[path] = ""

    def _release(self, handle: str) -> None:
        self._lose(self.handles.pop(handle))

    def _must_exist(self, path: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _programs(self, step: RunHook | ServiceStep) -> None:
        if not isinstance(step, RunHook):
            self.service_step(step)
        elif step.up is not None:
            self._must_exist(step.up)
            self.hooks.append((step.up, step.interface))

    def _at_link(self, step: AddNeighbour | DelNeighbour | SetOffload) -> None:
        if isinstance(step, SetOffload):
            self.offloads[self.get(step.name).name] = step.on
        else:
            self.neighbour_step(step)

    # ------------------------------------------------------------ guests

    def _guests(self, step: StartQemu | EndQemu | AwaitQemu | Resume) -> None:
        match step:
            case StartQemu():
                self._start(step)
            case EndQemu(vm):
                guest = self.guests.pop(vm, None)
                if guest is None:
                    raise Vanished(errno.ESRCH, f"no QEMU of {vm} runs")
                for netdev in list(guest.taps):
                    self._close(guest, netdev)
            case AwaitQemu(vm):
                self._guest(vm).answered = True
            case Resume(vm):
                self._answering(vm).running = True
            case _:
                typing.assert_never(step)

    def _cards(self, step: CardStep) -> None:
        if step.vm not in self.guests and not isinstance(step, AddNetdev | AddChardev | AddCard):
            raise Vanished(errno.ESRCH, f"no QEMU of {step.vm} runs")
        guest = self._answering(step.vm)
        match step:
            case AddNetdev(netdev=netdev):
                add_to(guest.netdevs, netdev)
                self._hand_over(step.vm, guest, netdev)
            case DelNetdev(netdev=netdev):
                take_from(guest.netdevs, netdev)
                self._close(guest, netdev)
            case AddChardev(netdev=netdev):
                add_to(guest.chardevs, netdev)
            case DelChardev(netdev=netdev):
                take_from(guest.chardevs, netdev)
            case AddCard(nic=nic):
                add_to(guest.cards, nic)
            case DelCard(nic=nic):
                take_from(guest.cards, nic)
            case SetGuestLink(vm, nic, up):
                self.cables[vm, nic] = up
            case SetForwards():
                change_forwards(guest, step)
            case _:
                typing.assert_never(step)

    def _of(self, vm: str) -> list[str]:
        return [name for name in self.handles if name.startswith(f"{vm}:")]

    def _start(self, step: StartQemu) -> None:
        if step.netns:
            self.place(step.netns)
        if any(guest.directory == step.directory for guest in self.guests.values()):
            raise refused(errno.EADDRINUSE)
        sockets = {f"{step.vm}:{name}.sock" for name in ("qmp", "monitor", "serial")}
        wanted = {part.name for word in step.argv for part in word.parts if isinstance(part, Handle)} - sockets
        missing = sorted(wanted - self.handles.keys())
        if missing:
            raise KeyError(", ".join(missing))
        guest = self.guests[step.vm] = FakeGuest(step.directory)
        for word in step.argv:
            self._equip(guest, word)
        self._hand_over(step.vm, guest, "")

    def _equip(self, guest: FakeGuest, word: Word) -> None:
        """Give a guest the card, or the backend with its tap, that an argument says it has."""
        text = str(word)
        found = json.loads(text) if text.startswith("{") else {}
        if "netdev" in found or found.get("driver") == VFIO:
            guest.cards.add(found["id"])
        elif "type" in found and "driver" not in found:
            guest.netdevs.add(found["id"])
            opened = (self.handles.pop(part.name) for part in word.parts if isinstance(part, Handle))
            guest.taps[found["id"]] = tuple(filter(None, opened))

    def _hand_over(self, vm: str, guest: FakeGuest, netdev: str) -> None:
        guest.taps[netdev] = tuple(tap for name in self._of(vm) if (tap := self.handles.pop(name)))

    def _close(self, guest: FakeGuest, netdev: str) -> None:
        for tap in guest.taps.pop(netdev, ()):
            self._lose(tap)

    def _lose(self, tap: str) -> None:
        """Remove a tap of which the last descriptor was closed, wherever it is."""
        for there in (self, *self.places.values()):
            if tap in there.links:
                there.remove_link(tap)

    def _guest(self, vm: str) -> FakeGuest:
        if vm not in self.guests:
            raise NotFound(f"no QEMU of {vm} was started here")
        return self.guests[vm]

    def _answering(self, vm: str) -> FakeGuest:
        guest = self._guest(vm)
        if not guest.answered:
            raise Failed(f"QEMU of {vm} has not answered yet", where=f"vm.{vm}")
        return guest
