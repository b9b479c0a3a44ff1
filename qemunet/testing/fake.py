"""A host in memory that refuses what the kernel refuses, for tests of everything that thinks about one.

It starts from a photograph (`Facts`) and is as strict as Linux about names, masters, parents and what is there
already. `FakeHost.fail_at` lets the n-th step fail; `FakeHost.picture` is all there is, for comparing before and after.
Routes that the kernel adds by itself are left out, and so are packets.
"""

from __future__ import annotations

import errno
import os
import typing
from dataclasses import dataclass

from qemunet.errors import Failed, NotFound, Taken
from qemunet.facts import Facts, FileFact, Wanted
from qemunet.frozen import replace
from qemunet.host.links import Vanished
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddNeighbour,
    AddRoute,
    AwaitQemu,
    Claim,
    CreateImage,
    DelAddress,
    DelGroup,
    DelLink,
    DelNeighbour,
    DelRoute,
    EndQemu,
    Handle,
    LoadFile,
    OpenFile,
    OpenMacvtap,
    OpenOverlay,
    OpenTap,
    PinBridge,
    RemoveFile,
    Resume,
    RunHook,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetSysctl,
    StartQemu,
    Unclaim,
    WriteFile,
)
from qemunet.testing.network import FakeNetwork, refused

if typing.TYPE_CHECKING:
    from qemunet.steps import Step


@dataclass(slots=True)
class FakeGuest:
    """A QEMU that is not there. `taps` live as long as it."""

    directory: str
    taps: tuple[str, ...]
    answered: bool = False
    running: bool = False


class FakeHost(FakeNetwork):
    """A host in memory. `performed` has every step that was done, `hooks` every program that was run."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.facts = facts
        self.files: dict[str, str] = dict.fromkeys(facts.files, "")
        self.handles: dict[str, str] = {}  # to what is open under them
        self.guests: dict[str, FakeGuest] = {}
        self.cables: dict[tuple[str, str], bool] = {}
        self.hooks: list[tuple[str, str]] = []
        self.performed: list[Step] = []
        self._faults: dict[int, BaseException] = {}
        self._tried = 0

    def fail_at(self, number: int, error: BaseException) -> None:
        """Let the step of that number (1 is the next one) fail, undone, with this error."""
        self._faults[self._tried + number] = error

    def picture(self) -> dict[str, object]:
        """Return a copy of everything that steps can change."""
        return {
            "links": {name: replace(link, index=0) for name, link in sorted(self.links.items())},
            "addresses": {name: sorted(texts) for name, texts in sorted(self.addresses.items()) if texts},
            "neighbours": sorted(self.neighbours.items(), key=repr),
            "routes": sorted(self.routes, key=repr),
            "sysctls": dict(sorted(self.sysctls.items())),
            "files": dict(sorted(self.files.items())),
            "guests": sorted(self.guests),
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
            ports={name: self.port_macs(name) for name in wanted.bridges},
            sysctls={key: self.sysctls[key] for key in wanted.sysctls if key in self.sysctls},
            files={
                p: known.get(p, FileFact(p, 0, regular=True, readable=True)) for p in wanted.files if p in self.files
            },
        )

    def perform(self, step: Step) -> None:
        """Do one step, or refuse it as `qemunet.host.linux.LinuxHost` would."""
        self._tried += 1
        if self._tried in self._faults:
            raise self._faults.pop(self._tried)
        match step:
            case AddLink() | DelLink() | DelGroup() | SetLink() | SetMaster() | PinBridge():
                self.link_step(step)
            case AddAddress() | DelAddress() | AddRoute() | DelRoute() | SetSysctl():
                self.setting_step(step)
            case AddNeighbour() | DelNeighbour():
                self.neighbour_step(step)
            case OpenTap() | OpenMacvtap() | OpenFile() | LoadFile() | OpenOverlay():
                self._open(step)
            case Claim() | Unclaim() | WriteFile() | RemoveFile() | CreateImage():
                self._files(step)
            case RunHook(up=program, interface=interface):
                self._hook(program, interface)
            case StartQemu() | EndQemu() | AwaitQemu() | SetGuestLink() | Resume():
                self._guests(step)
            case _:
                typing.assert_never(step)
        self.performed.append(step)

    def close(self) -> None:
        """Close every handle: the taps that no guest has go with them."""
        for name in list(self.handles):
            self._release(name)

    # ------------------------------------------------------------ files

    def _open(self, step: OpenTap | OpenMacvtap | OpenFile | LoadFile | OpenOverlay) -> None:
        if step.handle in self.handles:
            raise Failed(f"the handle {step.handle} is in use")
        match step:
            case OpenTap():
                self.make_tap(step)
                self.handles[step.handle] = step.name
            case OpenMacvtap(name=name):
                if self.get(name).kind != "macvtap":
                    raise refused(errno.ENOENT, f"{name} is no macvtap")
                self.handles[step.handle] = ""
            case OpenFile(path=path) | LoadFile(path=path) | OpenOverlay(image=path):
                self._must_exist(path)
                self.handles[step.handle] = ""
            case _:
                typing.assert_never(step)

    def _release(self, handle: str) -> None:
        tap = self.handles.pop(handle)
        if tap in self.links:
            self.remove_link(tap)

    def _must_exist(self, path: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def _files(self, step: Claim | Unclaim | WriteFile | RemoveFile | CreateImage) -> None:
        match step:
            case Claim(path, by):
                if path in self.files:
                    raise Taken(f"{'/'.join(path.split('/')[-2:])} is taken by {self.files[path]}")
                self.files[path] = by
            case Unclaim(path, by):
                if self.files.get(path) != by:
                    raise Vanished(errno.ENOENT, f"{path} is not claimed by {by}")
                del self.files[path]
            case WriteFile(path, text):
                self.files[path] = text
            case RemoveFile(path):
                if self.files.pop(path, None) is None:
                    raise Vanished(errno.ENOENT, path)
            case CreateImage(path, kind, size):
                if path in self.files:
                    raise Taken(f"{path} exists already and is not overwritten")
                self.files[path] = f"{kind} of {size}"
            case _:
                typing.assert_never(step)

    def _hook(self, program: str | None, interface: str) -> None:
        if program is not None:
            self._must_exist(program)
            self.hooks.append((program, interface))

    # ------------------------------------------------------------ guests

    def _guests(self, step: StartQemu | EndQemu | AwaitQemu | SetGuestLink | Resume) -> None:
        match step:
            case StartQemu():
                self._start(step)
            case EndQemu(vm):
                guest = self.guests.pop(vm, None)
                if guest is None:
                    raise Vanished(errno.ESRCH, f"no QEMU of {vm} runs")
                for tap in guest.taps:
                    if tap in self.links:
                        self.remove_link(tap)
            case AwaitQemu(vm):
                self._guest(vm).answered = True
            case SetGuestLink(vm, nic, up):
                self._answering(vm)
                self.cables[vm, nic] = up
            case Resume(vm):
                self._answering(vm).running = True
            case _:
                typing.assert_never(step)

    def _start(self, step: StartQemu) -> None:
        if any(guest.directory == step.directory for guest in self.guests.values()):
            raise refused(errno.EADDRINUSE)
        sockets = {f"{step.vm}:{name}.sock" for name in ("qmp", "monitor", "serial")}
        wanted = {part.name for word in step.argv for part in word.parts if isinstance(part, Handle)} - sockets
        missing = sorted(wanted - self.handles.keys())
        if missing:
            raise KeyError(", ".join(missing))
        own = [name for name in self.handles if name.startswith(f"{step.vm}:")]
        taps = tuple(tap for name in own if (tap := self.handles.pop(name)))
        self.guests[step.vm] = FakeGuest(step.directory, taps)

    def _guest(self, vm: str) -> FakeGuest:
        if vm not in self.guests:
            raise NotFound(f"no QEMU of {vm} was started here")
        return self.guests[vm]

    def _answering(self, vm: str) -> FakeGuest:
        guest = self._guest(vm)
        if not guest.answered:
            raise Failed(f"QEMU of {vm} has not answered yet", where=f"vm.{vm}")
        return guest
