"""Does steps on a Linux host, and takes its photograph."""

from __future__ import annotations

import contextlib
import os

from qemunet.errors import Failed, Gone, NotFound, unreachable
from qemunet.frozen import replace
from qemunet.host import addresses, files, links, netlink, sysctls
from qemunet.host.netns import Namespace, Place
from qemunet.locks import is_locked
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
    DropTable,
    EndDaemon,
    EndQemu,
    FilterVlans,
    In,
    LoadFile,
    LoadTable,
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
    SetVlans,
    StartDaemon,
    StartQemu,
    TakeAddress,
    TakeRoute,
    Unclaim,
    UnnameNetns,
    UnplugPort,
    Unreserve,
    VethLink,
    WriteFile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.facts import Facts, Wanted
    from qemunet.host.cards import CardStep, Monitor
    from qemunet.host.guests import RunningQemu
    from qemunet.host.openings import OpenStep
    from qemunet.host.ports import PortStep
    from qemunet.steps import Divert, Impair, Limit, Step, Undivert, Unimpair, Unlimit

    FileStep = Claim | Unclaim | WriteFile | RemoveFile | CreateImage | RemoveImage
    RateStep = Limit | Unlimit | Impair | Unimpair | Divert | Undivert
    RuleStep = RateStep | LoadTable | DropTable | FilterVlans | SetVlans
    LinkStep = AddLink | DelLink | DelGroup | SetLink | SetMaster | SetPort | PinBridge | SetCarrier


class LinuxHost:
    """This machine, seen from one network namespace.

    `handles`: open descriptors by name; `guests`: QEMUs started here, by vm; `monitors`: those that run already.
    """

    def __init__(self, runtime: str, place: Place | None = None) -> None:
        self.runtime = runtime
        self.place = place or Place()
        self.handles: dict[str, list[int]] = {}
        self.guests: dict[str, RunningQemu] = {}
        self.monitors: dict[str, Monitor] = {}
        self._net: netlink.Netlink | None = None

    def photograph(self, wanted: Wanted) -> Facts:
        """Look at what is wanted; `claims`, `scopes`, `kvm` and `guest` are for others to fill in."""
        from qemunet.host.photograph import photograph

        found = photograph(self.net, self.place, wanted, self.runtime)
        return replace(found, places=self._places(wanted)) if wanted.places else found

    def _places(self, wanted: Wanted) -> dict[str, Facts]:
        """Look at what is wanted in the namespaces that are there."""
        from qemunet.host import photograph, spaces

        found = {}
        for name in wanted.places:
            if spaces.is_there(self.runtime, name):
                with self.within(name) as there:
                    found[name] = photograph.inside(there.net, there.place, wanted, self.runtime)
        return found

    def perform(self, step: Step) -> None:
        """Do one step.

        Raises OSError, a QemunetError, or Gone for an undo that finds nothing of ours. After `Taken` nothing was done.
        """
        match step:
            case AddLink() | DelLink() | DelGroup() | SetLink() | SetMaster() | SetPort() | PinBridge() | SetCarrier():
                self._links(step)
            case PlugPort() | UnplugPort() | ChangePort() | PutAddress() | TakeAddress() | PutRoute() | TakeRoute():
                self._ports(step)
            case AddAddress() | DelAddress() | AddRoute() | DelRoute() | AddNeighbour() | DelNeighbour() | SetSysctl():
                self._addresses(step)
            case OpenTap() | AdoptTap() | OpenMacvtap() | OpenFile() | LoadFile() | OpenOverlay():
                self._open(step)
            case OpenSocket() | RemoveSocket():
                self._open(step)
            case Claim() | Unclaim() | WriteFile() | RemoveFile() | CreateImage() | RemoveImage():
                self._files(step)
            case RunHook():
                from qemunet.host import hooks

                self.place.inside(lambda: hooks.run(step, self.runtime))
            case SetOffload() | StartDaemon() | EndDaemon() | Reconfigure() | Reserve() | Unreserve():
                self._services(step)
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
                self._rules(step)

    def close(self) -> None:
        """Close every descriptor and socket; processes stay."""
        for name in list(self.handles):
            self.release(name)
        for guest in self.guests.values():
            guest.close()
        self.guests.clear()
        self.leave()

    def release(self, handle: str) -> None:
        """Close the descriptors of a handle."""
        for fd in self.handles.pop(handle):
            os.close(fd)

    @property
    def net(self) -> netlink.Netlink:
        """The netlink socket of our place, opened when it is first needed."""
        if self._net is None:
            self._net = netlink.Netlink(self.place.inside(netlink.open_socket))
        return self._net

    @contextlib.contextmanager
    def within(self, netns: str) -> Iterator[LinuxHost]:
        """Yield this host as it is in a namespace of a lab, with the same handles; raises Vanished.

        Afterwards its socket is closed, which would keep the namespace.
        """
        from qemunet.host import spaces

        with spaces.opened(self.runtime, netns):
            there = LinuxHost(self.runtime, Namespace(spaces.path(self.runtime, netns)))
        there.handles, there.guests, there.monitors = self.handles, self.guests, self.monitors
        try:
            yield there
        finally:
            there.leave()

    def leave(self) -> None:
        """Close the netlink socket."""
        if self._net is not None:
            self._net.close()
            self._net = None

    def _spaces(self, step: AddNetns | DelNetns | NameNetns | UnnameNetns | In) -> None:
        from qemunet.host import spaces

        if isinstance(step, In):
            with self.within(step.netns) as there:
                there.perform(step.step)
        else:
            spaces.perform(step, self.runtime)

    def _add(self, step: AddLink) -> None:
        """Make an interface, of a cable perhaps with its other end in another namespace."""
        beyond = step.link.peer_netns if isinstance(step.link, VethLink) else ""
        if not beyond:
            links.add(self.net, step)
            return
        from qemunet.host import spaces

        with self.within(beyond) as there, spaces.opened(self.runtime, beyond) as fd:
            links.add(self.net, step, links.Beyond(there.net, fd))

    def _links(self, step: LinkStep) -> None:
        match step:
            case AddLink():
                self._add(step)
            case DelLink():
                links.delete(self.net, step)
            case DelGroup():
                links.delete_group(self.net, step)
            case SetLink():
                links.change(self.net, step)
            case SetMaster():
                links.enslave(self.net, step)
            case SetPort():
                links.set_port(self.net, step)
            case PinBridge():
                links.pin(self.net, step)
            case SetCarrier():
                links.set_carrier(self.net, step)
            case _:
                unreachable(step)

    def _addresses(
        self, step: AddAddress | DelAddress | AddRoute | DelRoute | AddNeighbour | DelNeighbour | SetSysctl
    ) -> None:
        match step:
            case SetSysctl():
                self.place.inside(lambda: sysctls.set_if_unchanged(step))
            case AddAddress():
                addresses.add_address(self.net, step)
            case DelAddress():
                addresses.delete_address(self.net, step)
            case AddRoute():
                addresses.add_route(self.net, step)
            case DelRoute():
                addresses.delete_route(self.net, step)
            case AddNeighbour():
                addresses.add_neighbour(self.net, step)
            case DelNeighbour():
                addresses.delete_neighbour(self.net, step)
            case _:
                unreachable(step)

    def _ports(self, step: PortStep) -> None:
        from qemunet.host import ports

        ports.perform(self.net, step)

    def _rules(self, step: RuleStep) -> None:
        from qemunet.host import nft, qdiscs, vlans

        match step:
            case LoadTable():
                self.place.inside(lambda: nft.load(step))
            case DropTable():
                self.place.inside(lambda: nft.drop(step))
            case FilterVlans() | SetVlans():
                vlans.perform(self.net, step)
            case _:
                qdiscs.perform(self.net, step)

    def _services(self, step: SetOffload | StartDaemon | EndDaemon | Reconfigure | Reserve | Unreserve) -> None:
        from qemunet.host import daemons, offload

        match step:
            case SetOffload():
                self.place.inside(lambda: offload.set_checksums(step.name, on=step.on))
            case EndDaemon():
                daemons.end(step)
            case StartDaemon(netns=netns) if netns:
                with self.within(netns) as there:
                    there.place.inside(lambda: daemons.begin(step))
            case StartDaemon() | Reconfigure():
                self.place.inside(lambda: daemons.begin(step))
            case Reserve():
                daemons.reserve(step)
            case Unreserve():
                daemons.unreserve(step)
            case _:
                unreachable(step)

    def _open(self, step: OpenStep | RemoveSocket) -> None:
        from qemunet.host import openings

        if isinstance(step, RemoveSocket):
            if step.handle in self.handles:  # as long as we have it, somebody listens
                self.release(step.handle)
            openings.remove_socket(step, in_use=is_locked(f"{self.runtime}/vm/{step.handle.partition(':')[0]}/lock"))
        elif step.handle in self.handles:
            raise Failed(f"the handle {step.handle} is in use")
        else:
            self.handles[step.handle] = openings.opened(self.net, self.place, step, self.runtime)

    def _files(self, step: FileStep) -> None:
        match step:
            case Claim():
                files.claim(step)
            case Unclaim():
                files.unclaim(step)
            case WriteFile():
                files.write(step)
            case RemoveFile():
                files.remove(step)
            case CreateImage():
                from qemunet.host import images

                images.create(step)
            case RemoveImage():
                from qemunet.host import images

                images.remove(step)
            case _:
                unreachable(step)

    def _guests(self, step: StartQemu | EndQemu | AwaitQemu | Resume) -> None:
        from qemunet.host import guests

        match step:
            case StartQemu():
                with self.within(step.netns) if step.netns else contextlib.nullcontext(self) as there:
                    self.guests[step.vm] = guests.start(step, self.handles, there.place)
                self._release_of(step.vm)
            case EndQemu():
                self._forget(step.vm)
                guests.end(step)
            case AwaitQemu():
                guests.await_answer(self._guest(step.vm))
            case Resume():
                guests.resume(self._guest(step.vm), step)
            case _:
                unreachable(step)

    def _cards(self, step: CardStep) -> None:
        from qemunet.host import cards, guests

        monitor = self.monitors.get(step.vm)
        if monitor is not None:
            try:
                cards.perform(monitor, step, self.handles, self.runtime)
            except NotFound as error:
                if is_locked(f"{self.runtime}/vm/{step.vm}/lock"):
                    raise  # it may have lost us, and have the card
                raise Gone(f"QEMU of {step.vm} is gone") from error
            if isinstance(step, AddNetdev):
                self._release_of(step.vm)
        elif isinstance(step, SetGuestLink) and step.vm in self.guests:
            guests.set_link(self._guest(step.vm), step)
        elif isinstance(step, DelNetdev | DelChardev | DelCard | SetGuestLink | SetForwards):
            raise Gone(f"it goes with QEMU of {step.vm}, to which nobody here talks")
        else:
            raise NotFound(f"nobody here talks to QEMU of {step.vm}")

    def _release_of(self, vm: str) -> None:
        """Close what was opened for a guest that has it now: else it would outlive the guest."""
        for name in [name for name in self.handles if name.startswith(f"{vm}:")]:
            self.release(name)

    def _guest(self, vm: str) -> RunningQemu:
        if vm not in self.guests:
            raise NotFound(f"no QEMU of {vm} was started here")
        return self.guests[vm]

    def _forget(self, vm: str) -> None:
        guest = self.guests.pop(vm, None)
        if guest is not None:
            guest.close()
