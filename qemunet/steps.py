"""The vocabulary: every change to the host, as a value that can say itself, undo itself and print itself as shell.

`describe` is one line for people. `inverse(before)` is the step that takes it back, given the photograph from
before: None when nothing of it has to be undone, because the thing was there already or goes with its owner.
`shell` is the same for a POSIX shell with iproute2 and QEMU. A step is done by a host (`qemunet.host`), never here.

Names of open files are *handles*: ``kali2:net0`` is the tap of that card. A host keeps what a handle stands for
until the plan is done; in an argument vector `Handle` marks where the descriptor's number goes.
"""

from __future__ import annotations

import shlex
from qemunet.frozen import frozen
from typing import Protocol

from qemunet.facts import Facts
from qemunet.model.names import altname
from qemunet.model.nic import MacvtapMode
from qemunet.model.vm import RunAs


class Described(Protocol):
    """What every step can do."""

    def describe(self) -> str:
        """Say the step in one line, as an order: ``add bridge qn-lab``."""

    def inverse(self, before: Facts) -> Step | None:
        """Return what takes the step back, or None if there is nothing to take back."""

    def shell(self) -> tuple[str, ...]:
        """Return the lines of a POSIX script that do the same."""


def line(*words: str) -> str:
    """Join words to one shell line, each quoted as needed."""
    return " ".join(shlex.quote(word) for word in words)


# ---------------------------------------------------------------- links


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
class AddLink:
    """Make an interface that lives until it is deleted. It is down at first."""

    name: str
    link: BridgeLink | MacvtapLink
    mark: Mark

    def describe(self) -> str:
        match self.link:
            case BridgeLink(mac=mac, mtu=mtu, stp=stp):
                return f"add bridge {self.name} ({mac}, mtu {mtu}{', stp' if stp else ''})"
            case MacvtapLink(parent=parent, mode=mode, mac=mac):
                return f"add macvtap {self.name} on {parent} ({mode}, {mac})"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.name in before.links else DelLink(self.name, self.mark)

    def shell(self) -> tuple[str, ...]:
        return (
            line("ip", "link", "add", *self._kind()),
            line("ip", "link", "property", "add", "dev", self.name, "altname", self.mark.altname),
        )

    def _kind(self) -> tuple[str, ...]:
        group = ("group", str(self.mark.group))
        match self.link:
            case BridgeLink(mac, mtu, stp, delay, ageing):
                timers = ("forward_delay", str(delay * 100), "ageing_time", str(ageing * 100))
                base = ("name", self.name, "address", mac, "mtu", str(mtu), *group, "type", "bridge")
                return (*base, *timers, "stp_state", str(int(stp)))
            case MacvtapLink(parent, mode, mac, mtu):
                base = ("link", parent, "name", self.name, "address", mac, "mtu", str(mtu), *group)
                return (*base, "type", "macvtap", "mode", str(mode))


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
    """Delete all links of one scope: in a single message if its link group holds nothing else, else one by one."""

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
class OpenTap:
    """Open a tap under `handle`, one descriptor per queue, and set it up; it is gone when its last descriptor is.

    The address and the MTU are set before it is plugged into `master`, so that nothing of the bridge changes.
    A port of a bridge gets no IPv6 of its own, or the host would show itself to the guest.
    """

    handle: str
    name: str
    mark: Mark
    mac: str
    mtu: int
    master: str | None = None
    queues: int = 1

    def describe(self) -> str:
        where = f" on {self.master}" if self.master else ""
        queues = f", {self.queues} queues" if self.queues > 1 else ""
        return f"open tap {self.name}{where} ({self.mac}, mtu {self.mtu}{queues})"

    def inverse(self, before: Facts) -> Step | None:
        return DelLink(self.name, self.mark)

    def shell(self) -> tuple[str, ...]:
        multi = ("multi_queue",) if self.queues > 1 else ()
        master = ("master", self.master) if self.master else ()
        properties = ("address", self.mac, "mtu", str(self.mtu), "group", str(self.mark.group))
        quiet = (line("sysctl", "-e", "-qw", f"net.ipv6.conf.{sysctl_name(self.name)}.disable_ipv6=1"),)
        add = line("ip", "tuntap", "add", "dev", self.name, "mode", "tap", *multi, "vnet_hdr")
        return (
            f'{add} user "$user"',
            line("ip", "link", "property", "add", "dev", self.name, "altname", self.mark.altname),
            *(quiet if self.master else ()),
            line("ip", "link", "set", "dev", self.name, *properties, *master, "up"),
        )


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


# ---------------------------------------------------------------- addresses, routes, sysctls


@frozen
class AddAddress:
    """Put an address (CIDR) on an interface; IPv6 without duplicate address detection, usable at once."""

    name: str
    address: str

    def describe(self) -> str:
        return f"add address {self.address} to {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        known = self.name in before.links and self.address not in before.addresses.get(self.name, ())
        return DelAddress(self.name, self.address) if known else None

    def shell(self) -> tuple[str, ...]:
        nodad = ("nodad",) if ":" in self.address else ()
        return (line("ip", "address", "add", self.address, "dev", self.name, *nodad),)


@frozen
class DelAddress:
    """Take an address (CIDR) from an interface."""

    name: str
    address: str

    def describe(self) -> str:
        return f"delete address {self.address} from {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        there = self.address in before.addresses.get(self.name, ())
        return AddAddress(self.name, self.address) if there else None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "address", "del", self.address, "dev", self.name),)


@frozen
class AddRoute:
    """Route a destination (CIDR) through an interface, in the main table."""

    destination: str
    name: str
    gateway: str | None = None

    def describe(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"route {self.destination}{via} through {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        if self.name not in before.links:
            return None  # goes with its interface
        same = any((r.destination, r.device) == (self.destination, self.name) for r in before.routes)
        return None if same else DelRoute(self.destination, self.name, self.gateway)

    def shell(self) -> tuple[str, ...]:
        via = ("via", self.gateway) if self.gateway else ()
        return (line("ip", "route", "add", self.destination, *via, "dev", self.name),)


@frozen
class DelRoute:
    """Take a route from the main table."""

    destination: str
    name: str
    gateway: str | None = None

    def describe(self) -> str:
        return f"delete route {self.destination} through {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        same = any((r.destination, r.device) == (self.destination, self.name) for r in before.routes)
        return AddRoute(self.destination, self.name, self.gateway) if same else None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "route", "del", self.destination, "dev", self.name),)


@frozen
class SetSysctl:
    """Write a sysctl; with `only_if`, and another value there now, somebody else has changed it and it stays.

    On a host without IPv6 none of ``net.ipv6`` is there, and nothing has to be written.
    """

    key: str  # slash-free, sysctl(8): a dot inside an interface name is written as a slash
    value: str
    only_if: str | None = None

    def describe(self) -> str:
        return f"set {self.key} = {self.value}"

    def inverse(self, before: Facts) -> Step | None:
        old = before.sysctls.get(self.key)
        return None if old is None or old == self.value else SetSysctl(self.key, old, only_if=self.value)

    def shell(self) -> tuple[str, ...]:
        unknown = ("-e",) if self.key.startswith("net.ipv6.") else ()
        return (line("sysctl", *unknown, "-qw", f"{self.key}={self.value}"),)


def sysctl_name(interface: str) -> str:
    """Return an interface's name as a part of a sysctl key: dots and slashes change places (sysctl.d(5))."""
    return interface.replace(".", "/")


# ---------------------------------------------------------------- claims and files


@frozen
class Claim:
    """Take something that only one may have: a MAC, a uid, a place among a network's guests. An exclusive file."""

    path: str
    by: str

    def describe(self) -> str:
        return f"claim {_claimed(self.path)} for {self.by}"

    def inverse(self, before: Facts) -> Step | None:
        return Unclaim(self.path, self.by)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class Unclaim:
    """Give up a claim, if it is still that owner's."""

    path: str
    by: str

    def describe(self) -> str:
        return f"give up {_claimed(self.path)}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


def _claimed(path: str) -> str:
    """Say what a claim is about: ``mac/52:54:00:…``, or ``a place on net/lab``."""
    *_, kind, name, what, key = ("", "", *path.split("/"))
    return f"a place on {kind}/{name}" if what == "users" else f"{what}/{key}"


@frozen
class WriteFile:
    """Write a small private file (mode 0600) into a directory of ours."""

    path: str
    text: str

    def describe(self) -> str:
        return f"write {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return RemoveFile(self.path)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class RemoveFile:
    """Remove a file of ours."""

    path: str

    def describe(self) -> str:
        return f"remove {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("rm", "-f", self.path),)


@frozen
class CreateImage:
    """Create an empty disk image. It is the user's: it stays once the guest runs, and goes if the start fails."""

    path: str
    format: str
    size: int  # bytes

    def describe(self) -> str:
        return f"create {self.format} image {self.path} of {self.size} bytes"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.path in before.files else RemoveFile(self.path)

    def shell(self) -> tuple[str, ...]:
        create = line("qemu-img", "create", "-q", "-f", self.format, self.path, str(self.size))
        return (f"[ -e {shlex.quote(self.path)} ] || {create}",)


@frozen
class OpenFile:
    """Open a file under `handle` for a QEMU that may not open it by itself."""

    handle: str
    path: str
    writable: bool = False

    def describe(self) -> str:
        return f"open {self.path} ({'read and write' if self.writable else 'read'})"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class LoadFile:
    """Copy a file into memory under `handle`; QEMU opens that by ``/proc/self/fd/N`` under any user."""

    handle: str
    path: str

    def describe(self) -> str:
        return f"load {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class OpenOverlay:
    """Make a nameless qcow2 file as large as an image, under `handle`: it takes what is written in its place.

    It names no backing file; QEMU is told of that.
    """

    handle: str
    image: str

    def describe(self) -> str:
        return f"open a throw-away overlay of {self.image}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


# ---------------------------------------------------------------- the guest


@frozen
class Handle:
    """Stands in an argument for the number of an open file; several numbers are joined by colons."""

    name: str

    def __str__(self) -> str:
        return f"<{self.name}>"


@frozen
class Word:
    """One argument of a command line, made of text and handles."""

    parts: tuple[str | Handle, ...]

    def __str__(self) -> str:
        return "".join(str(part) for part in self.parts)


@frozen
class RunHook:
    """Run a program of the user's when a card's host side is ready (`up`), and `down` before it goes.

    It is called as qemu-ifup scripts are, with the interface as its argument, and finds the rest in variables
    whose names begin with QEMUNET_.
    """

    up: str | None
    down: str | None
    interface: str
    environment: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"run {self.up} {self.interface}" if self.up else f"later run {self.down} {self.interface}"

    def inverse(self, before: Facts) -> Step | None:
        return RunHook(self.down, None, self.interface, self.environment) if self.down else None

    def shell(self) -> tuple[str, ...]:
        settings = [f"{key}={value}" for key, value in self.environment]
        return (line("env", *settings, self.up, self.interface),) if self.up else ()


@frozen
class StartQemu:
    """Start a guest's QEMU, its processors stopped, with its sockets in `directory`.

    `argv` names descriptors by handles; `script` is the same for a shell, with everything by name and running.
    """

    vm: str
    directory: str
    argv: tuple[Word, ...]
    script: tuple[str, ...]
    run_as: RunAs | None = None
    groups: tuple[int, ...] = ()

    def describe(self) -> str:
        who = f" as uid {self.run_as.uid}" if self.run_as else ""
        return f"start QEMU of {self.vm}{who}"

    def inverse(self, before: Facts) -> Step | None:
        return EndQemu(self.vm, self.directory)

    def shell(self) -> tuple[str, ...]:
        return self.script


@frozen
class EndQemu:
    """End a guest's QEMU at once and wait until it is gone."""

    vm: str
    directory: str

    def describe(self) -> str:
        return f"end QEMU of {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        pid = f'"$(cat {shlex.quote(self.directory)}/pid)"'
        return (f"kill {pid} && while kill -0 {pid} 2>/dev/null; do sleep 0.1; done",)


@frozen
class AwaitQemu:
    """Wait until a started QEMU answers on its monitor; if it died, say how."""

    vm: str

    def describe(self) -> str:
        return f"wait for QEMU of {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class SetGuestLink:
    """Plug a card's cable in or out, as the guest sees it."""

    vm: str
    nic: str
    up: bool

    def describe(self) -> str:
        return f"set the cable of {self.vm}.{self.nic} {'in' if self.up else 'out'}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()  # part of the line that starts QEMU


@frozen
class Resume:
    """Let the guest's processors run."""

    vm: str

    def describe(self) -> str:
        return f"let {self.vm} run"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


Step = (
    AddLink
    | DelLink
    | DelGroup
    | SetLink
    | SetMaster
    | OpenTap
    | OpenMacvtap
    | AddAddress
    | DelAddress
    | AddRoute
    | DelRoute
    | SetSysctl
    | Claim
    | Unclaim
    | WriteFile
    | RemoveFile
    | CreateImage
    | OpenFile
    | LoadFile
    | OpenOverlay
    | RunHook
    | StartQemu
    | EndQemu
    | AwaitQemu
    | SetGuestLink
    | Resume
)


@frozen
class Part:
    """The steps of one scope, in order. A shared scope (``net/lab``, ``host/…``) is made once for all its users."""

    scope: str
    steps: tuple[Step, ...]
    fingerprint: str = ""  # of a shared scope: equal ones may be shared


@frozen
class Plan:
    """What a command will do: `shared` and `own` under the runtime directory's lock, `start` after it.

    `own` makes ready each vm's own things, `start` lets them run: all QEMUs are started before any is waited for.
    """

    shared: tuple[Part, ...] = ()
    own: tuple[Part, ...] = ()
    start: tuple[Part, ...] = ()

    def parts(self) -> tuple[Part, ...]:
        """Return all parts in order."""
        return (*self.shared, *self.own, *self.start)
