"""Steps about links: bridges, cables, macvtaps and taps made, changed, plugged and deleted."""

from __future__ import annotations

from qemunet.frozen import frozen, replace
from qemunet.model.names import altname
from qemunet.steps.words import line, sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.facts import Facts
    from qemunet.model.nic import MacvtapMode
    from qemunet.model.vlan import Vlans
    from qemunet.steps import Step
    from qemunet.steps.vlans import SetVlans


@frozen
class Mark:
    """Whose a link is: its scope, which part of it, and the number of the scope's link group."""

    scope: str
    part: str
    group: int

    @property
    def altname(self) -> str:
        """The readable half of the mark."""
        return altname(self.scope, self.part)


@frozen
class BridgeLink:
    """A bridge; its address is in the message that creates it, or it would take that of its lowest port."""

    mac: str
    mtu: int
    stp: bool = False
    forward_delay: int = 0  # seconds
    ageing: int = 300  # seconds


@frozen
class MacvtapLink:
    """A macvtap on `parent`; in passthru mode the kernel gives it the parent's address."""

    parent: str
    mode: MacvtapMode
    mac: str
    mtu: int


@frozen
class MacvlanLink:
    """A macvlan in mode bridge on `parent`: the host's own card beside the guests' macvtaps."""

    parent: str
    mac: str
    mtu: int


@frozen
class IfbLink:
    """An interface that gives back what it is given, as fast as its bucket lets it: for shaping what arrives."""

    mac: str
    mtu: int


@frozen
class VethLink:
    """A cable, of which `peer` is the other end; each goes with the other. `peer_part` is the part in its mark.

    `peer_netns`: the namespace of the lab that the other end is made in, if it is not where this one is.
    """

    peer: str
    mac: str
    peer_mac: str
    mtu: int  # of both ends
    peer_part: str
    peer_netns: str = ""


@frozen
class AddLink:
    """Make an interface that lives until it is deleted. It is down at first."""

    name: str
    link: BridgeLink | MacvtapLink | MacvlanLink | IfbLink | VethLink
    mark: Mark

    @property
    def ends(self) -> tuple[tuple[str, Mark], ...]:
        """The name of what is made, with its mark: of both ends, if it is a cable."""
        if not isinstance(self.link, VethLink):
            return ((self.name, self.mark),)
        return (self.name, self.mark), (self.link.peer, replace(self.mark, part=self.link.peer_part))

    def describe(self) -> str:
        match self.link:
            case BridgeLink(mac=mac, mtu=mtu, stp=stp):
                return f"add bridge {self.name} ({mac}, mtu {mtu}{', stp' if stp else ''})"
            case MacvtapLink(parent=parent, mode=mode, mac=mac):
                return f"add macvtap {self.name} on {parent} ({mode}, {mac})"
            case MacvlanLink(parent=parent, mac=mac):
                return f"add macvlan {self.name} on {parent} ({mac})"
            case IfbLink(mac=mac):
                return f"add ifb {self.name} ({mac})"
            case VethLink(peer=peer, mac=mac, mtu=mtu):
                there = f" in {self.link.peer_netns}" if self.link.peer_netns else ""
                return f"add cable {self.name} to {peer}{there} ({mac}, mtu {mtu})"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.name in before.links else DelLink(self.name, self.mark)

    def shell(self) -> tuple[str, ...]:
        # A bridge's MTU counts as chosen, and is not lowered by a port, only if setting it changes it.
        pin = SetLink(self.name, mtu=self.link.mtu).shell() if isinstance(self.link, BridgeLink) else ()
        return (
            line("ip", "link", "add", *self._kind()),
            *self._marking(),
            *pin,
        )

    def _marking(self) -> Iterator[str]:
        """Yield the lines that mark what is made, each where it is."""
        from qemunet.steps.spaces import inside

        beyond = self.link.peer_netns if isinstance(self.link, VethLink) else ""
        for netns, (name, mark) in zip(("", beyond), self.ends, strict=False):
            text = line("ip", "link", "property", "add", "dev", name, "altname", mark.altname)
            yield inside(netns, text) if netns else text

    def _kind(self) -> tuple[str, ...]:
        group = ("group", str(self.mark.group))
        match self.link:
            case BridgeLink(mac, mtu, stp, delay, ageing):
                timers = ("forward_delay", str(delay * 100), "ageing_time", str(ageing * 100))
                base = ("name", self.name, "address", mac, "mtu", str(mtu ^ 1), *group, "type", "bridge")
                return (*base, *timers, "stp_state", str(int(stp)), "no_linklocal_learn", "1")
            case MacvtapLink(parent, mode, mac, mtu):
                base = ("link", parent, "name", self.name, "address", mac, "mtu", str(mtu), *group)
                return (*base, "type", "macvtap", "mode", str(mode))
            case MacvlanLink(parent, mac, mtu):
                base = ("link", parent, "name", self.name, "address", mac, "mtu", str(mtu), *group)
                return (*base, "type", "macvlan", "mode", "bridge")
            case IfbLink(mac, mtu):
                return ("name", self.name, "address", mac, "mtu", str(mtu), *group, "type", "ifb")
            case VethLink(peer, mac, peer_mac, mtu):
                base = ("name", self.name, "address", mac, "mtu", str(mtu), *group, "type", "veth")
                there = ("netns", self.link.peer_netns) if self.link.peer_netns else ()
                return (*base, "peer", "name", peer, "address", peer_mac, "mtu", str(mtu), *group, *there)


@frozen
class DelLink:
    """Delete an interface, if it still carries our mark."""

    name: str
    mark: Mark

    def describe(self) -> str:
        return f"delete {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "del", "dev", self.name),)


@frozen
class DelGroup:
    """Delete links of one scope and group, of which some may be gone.

    They go in a single message if the group is one of ours and every link in it carries one of their marks, else one
    by one, each if it still carries its mark.
    """

    links: tuple[DelLink, ...]

    def describe(self) -> str:
        return f"delete {', '.join(link.name for link in self.links)}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return tuple(text for link in self.links for text in link.shell())


@frozen
class SetLink:
    """Change an interface; None leaves a property as it is."""

    name: str
    up: bool | None = None
    mtu: int | None = None
    mac: str | None = None

    def describe(self) -> str:
        return f"set {self.name} {' '.join(self._words())}"

    def inverse(self, before: Facts) -> Step | None:
        old = before.links.get(self.name)
        if old is None:
            return None
        changed = SetLink(
            self.name,
            up=old.up if self.up not in (None, old.up) else None,
            mtu=old.mtu if self.mtu not in (None, old.mtu) else None,
            mac=old.mac if self.mac not in (None, old.mac) else None,
        )
        return None if changed == SetLink(self.name) else changed

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "set", "dev", self.name, *self._words()),)

    def _words(self) -> list[str]:
        words = [] if self.mac is None else ["address", self.mac]
        words += [] if self.mtu is None else ["mtu", str(self.mtu)]
        return words if self.up is None else [*words, "up" if self.up else "down"]


@frozen
class PinBridge:
    """Make the address that a bridge has its own, and its MTU if one is given; else it takes those of its ports.

    Nothing changes that can be seen, now or when its last port has gone, so there is nothing to take back.
    """

    name: str
    mac: str  # when the photograph was taken; it is the one it has then that is kept
    mtu: int | None = None

    def describe(self) -> str:
        mtu = f" and mtu {self.mtu}" if self.mtu else ""
        return f"keep {self.name} at its address {self.mac}{mtu}, whatever is plugged in"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        chosen = () if self.mtu is None else (self.mtu ^ 1, self.mtu)
        return (line("pin", self.name), *(text for mtu in chosen for text in SetLink(self.name, mtu=mtu).shell()))


@frozen
class SetMaster:
    """Plug an interface into a bridge, or out of any (None)."""

    name: str
    master: str | None

    def describe(self) -> str:
        return f"plug {self.name} into {self.master}" if self.master else f"plug {self.name} out"

    def inverse(self, before: Facts) -> Step | None:
        old = before.links.get(self.name)
        return None if old is None or old.master == self.master else SetMaster(self.name, old.master)

    def shell(self) -> tuple[str, ...]:
        where = ("master", self.master) if self.master else ("nomaster",)
        return (line("ip", "link", "set", "dev", self.name, *where),)


@frozen
class SetPort:
    """Keep a port of a bridge apart from the others that are, or no longer; `was`: how it is, for the way back.

    A port that is plugged out and in again is like any other (bridge(8), "isolated").
    """

    name: str
    isolated: bool
    was: bool | None = None

    def describe(self) -> str:
        return f"keep {self.name} apart from other such ports" if self.isolated else f"let all ports reach {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.was in (None, self.isolated) else SetPort(self.name, self.was is True)

    def shell(self) -> tuple[str, ...]:
        return (line("bridge", "link", "set", "dev", self.name, "isolated", "on" if self.isolated else "off"),)


@frozen
class OpenTap:
    """Open a tap under `handle`, one descriptor per queue, and set it up; it is gone when its last descriptor is.

    The address and the MTU are set before it is plugged into `master`, so that nothing of the bridge changes.
    A port of a bridge gets no IPv6 of its own, or the host would show itself to the guest; an `isolated` one is kept
    apart, and one with `vlans` is in these and no others, before it is up.
    """

    handle: str
    name: str
    mark: Mark
    mac: str
    mtu: int
    master: str | None = None
    queues: int = 1
    isolated: bool = False
    vlans: Vlans | None = None

    @property
    def settings(self) -> tuple[SetPort | SetVlans, ...]:
        """What makes it the port that it is to be, once it is plugged in and before it is up."""
        apart = (SetPort(self.name, isolated=True),) if self.isolated else ()
        if self.vlans is None:
            return apart
        from qemunet.steps.vlans import SetVlans

        return (*apart, SetVlans(self.name, self.vlans))

    def describe(self) -> str:
        where = f" on {self.master}" if self.master else ""
        queues = f", {self.queues} queues" if self.queues > 1 else ""
        apart = ", isolated" if self.isolated else ""
        return f"open tap {self.name}{where} ({self.mac}, mtu {self.mtu}{queues}{apart}{self._in_vlans()})"

    def _in_vlans(self) -> str:
        if not self.vlans:
            return ""
        from qemunet.steps.vlans import vlan_words

        return f", {vlan_words(self.vlans)}"

    def inverse(self, before: Facts) -> Step | None:
        return DelLink(self.name, self.mark)

    def shell(self) -> tuple[str, ...]:
        multi = ("multi_queue",) if self.queues > 1 else ()
        master = ("master", self.master) if self.master else ()
        properties = ("address", self.mac, "mtu", str(self.mtu), "group", str(self.mark.group))
        quiet = (line("sysctl", "-e", "-qw", f"net.ipv6.conf.{sysctl_name(self.name)}.disable_ipv6=1"),)
        add = line("ip", "tuntap", "add", "dev", self.name, "mode", "tap", *multi, "vnet_hdr")
        plugged = line("ip", "link", "set", "dev", self.name, *properties, *master)
        settings = tuple(text for step in self.settings for text in step.shell())
        up = (plugged, *settings, *SetLink(self.name, up=True).shell()) if settings else (f"{plugged} up",)
        return (
            f'{add} user "$user"',
            line("ip", "link", "property", "add", "dev", self.name, "altname", self.mark.altname),
            *(quiet if self.master else ()),
            *up,
        )


@frozen
class AdoptTap:
    """Open a tap that somebody else has made under `handle`, one descriptor per queue, as it is.

    `index` is that of the interface, 0 if nobody has looked. It stays when its last descriptor is closed.
    """

    handle: str
    name: str
    index: int
    queues: int = 1

    def describe(self) -> str:
        queues = f" ({self.queues} queues)" if self.queues > 1 else ""
        return f"open tap {self.name}, which is there{queues}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()  # QEMU opens it by its name


@frozen
class OpenMacvtap:
    """Open the character device of a macvtap under `handle`, once per queue."""

    handle: str
    name: str
    queues: int = 1

    def describe(self) -> str:
        return f"open the device of macvtap {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()  # the line that starts QEMU opens it
