"""Does steps on a Linux host, and takes its photograph."""

from __future__ import annotations

import contextlib
import os

from qemunet import steps
from qemunet.errors import Failed, Gone, NotFound, unreachable
from qemunet.frozen import replace
from qemunet.host import addresses, files, links, netlink, sysctls
from qemunet.host.netns import Namespace, Place
from qemunet.locks import is_locked
from qemunet.steps import (
    AddLink,
    AdoptTap,
    AwaitQemu,
    Claim,
    CreateImage,
    DelGroup,
    DelLink,
    EndQemu,
    LoadFile,
    OpenFile,
    OpenMacvtap,
    OpenOverlay,
    OpenTap,
    PinBridge,
    RemoveFile,
    RemoveImage,
    Resume,
    RunHook,
    SetLink,
    SetMaster,
    SetPort,
    StartQemu,
    Unclaim,
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
    RuleStep = RateStep | steps.LoadTable | steps.DropTable | steps.FilterVlans | steps.SetVlans
    LinkStep = AddLink | DelLink | DelGroup | SetLink | SetMaster | SetPort | PinBridge
    RouteStep = steps.AddRoute | steps.DelRoute | steps.AddNeighbour | steps.DelNeighbour
    AddressStep = steps.AddAddress | steps.DelAddress | RouteStep | steps.SetSysctl
    SpaceStep = steps.AddNetns | steps.DelNetns | steps.NameNetns | steps.UnnameNetns | steps.In
    DaemonStep = steps.StartDaemon | steps.EndDaemon | steps.Reconfigure | steps.Reserve | steps.Unreserve
    ServiceStep = DaemonStep | steps.SetOffload
    SocketStep = steps.OpenSocket | steps.RemoveSocket
    RarerStep = AddressStep | CardStep | steps.SetCarrier | SpaceStep | ServiceStep | SocketStep | PortStep | RuleStep


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
            case AddLink() | DelLink() | DelGroup() | SetLink() | SetMaster() | SetPort() | PinBridge():
                self._links(step)
            case OpenTap() | AdoptTap() | OpenMacvtap() | OpenFile() | LoadFile() | OpenOverlay():
                self._open(step)
            case Claim() | Unclaim() | WriteFile() | RemoveFile() | CreateImage() | RemoveImage():
                self._files(step)
            case StartQemu() | EndQemu() | AwaitQemu() | Resume():
                self._guests(step)
            case RunHook():
                from qemunet.host import hooks

                self.place.inside(lambda: hooks.run(step, self.runtime))
            case _:
                self._rarer(step)

    def _rarer(self, step: RarerStep) -> None:
        """Do a step that not every start has. What is named here is loaded for it, the most frequent first."""
        match step:
            case (
                steps.SetSysctl()
                | steps.AddAddress()
                | steps.DelAddress()
                | steps.AddRoute()
                | steps.DelRoute()
                | steps.AddNeighbour()
                | steps.DelNeighbour()
            ):
                self._addresses(step)
            case steps.SetCarrier():
                links.set_carrier(self.net, step)
            case (
                steps.SetGuestLink()
                | steps.AddNetdev()
                | steps.DelNetdev()
                | steps.AddChardev()
                | steps.DelChardev()
                | steps.AddCard()
                | steps.DelCard()
                | steps.SetForwards()
            ):
                self._cards(step)
            case steps.In() | steps.AddNetns() | steps.DelNetns() | steps.NameNetns() | steps.UnnameNetns():
                self._spaces(step)
            case steps.SetOffload() | steps.StartDaemon() | steps.EndDaemon() | steps.Reconfigure():
                self._services(step)
            case steps.Reserve() | steps.Unreserve():
                self._services(step)
            case steps.OpenSocket():
                self._open(step)
            case steps.RemoveSocket():
                self._remove(step)
            case steps.PlugPort() | steps.UnplugPort() | steps.ChangePort():
                self._ports(step)
            case steps.PutAddress() | steps.TakeAddress() | steps.PutRoute() | steps.TakeRoute():
                self._ports(step)
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

    def _spaces(self, step: SpaceStep) -> None:
        from qemunet.host import spaces

        if isinstance(step, steps.In):
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
            case _:
                unreachable(step)

    def _addresses(self, step: AddressStep) -> None:
        match step:
            case steps.SetSysctl():
                self.place.inside(lambda: sysctls.set_if_unchanged(step))
            case steps.AddAddress():
                addresses.add_address(self.net, step)
            case steps.DelAddress():
                addresses.delete_address(self.net, step)
            case steps.AddRoute():
                addresses.add_route(self.net, step)
            case steps.DelRoute():
                addresses.delete_route(self.net, step)
            case steps.AddNeighbour():
                addresses.add_neighbour(self.net, step)
            case steps.DelNeighbour():
                addresses.delete_neighbour(self.net, step)
            case _:
                unreachable(step)

    def _ports(self, step: PortStep) -> None:
        from qemunet.host import ports

        ports.perform(self.net, step)

    def _rules(self, step: RuleStep) -> None:
        from qemunet.host import nft, qdiscs, vlans

        match step:
            case steps.LoadTable():
                self.place.inside(lambda: nft.load(step))
            case steps.DropTable():
                self.place.inside(lambda: nft.drop(step))
            case steps.FilterVlans() | steps.SetVlans():
                vlans.perform(self.net, step)
            case _:
                qdiscs.perform(self.net, step)

    def _services(self, step: ServiceStep) -> None:
        from qemunet.host import daemons, offload

        match step:
            case steps.SetOffload():
                self.place.inside(lambda: offload.set_checksums(step.name, on=step.on))
            case steps.EndDaemon():
                daemons.end(step)
            case steps.StartDaemon(netns=netns) if netns:
                with self.within(netns) as there:
                    there.place.inside(lambda: daemons.begin(step))
            case steps.StartDaemon() | steps.Reconfigure():
                self.place.inside(lambda: daemons.begin(step))
            case steps.Reserve():
                daemons.reserve(step)
            case steps.Unreserve():
                daemons.unreserve(step)
            case _:
                unreachable(step)

    def _open(self, step: OpenStep) -> None:
        from qemunet.host import openings

        if step.handle in self.handles:
            raise Failed(f"the handle {step.handle} is in use")
        self.handles[step.handle] = openings.opened(self.net, self.place, step, self.runtime)

    def _remove(self, step: steps.RemoveSocket) -> None:
        from qemunet.host import openings

        if step.handle in self.handles:  # as long as we have it, somebody listens
            self.release(step.handle)
        openings.remove_socket(step, in_use=is_locked(f"{self.runtime}/vm/{step.handle.partition(':')[0]}/lock"))

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
            if isinstance(step, steps.AddNetdev):
                self._release_of(step.vm)
        elif isinstance(step, steps.SetGuestLink) and step.vm in self.guests:
            guests.set_link(self._guest(step.vm), step)
        elif isinstance(
            step, steps.DelNetdev | steps.DelChardev | steps.DelCard | steps.SetGuestLink | steps.SetForwards
        ):
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
