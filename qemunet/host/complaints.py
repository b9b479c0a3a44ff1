"""Knows what QEMU's last words mean: which of its deaths is another's hold on a port, an image or a device, and whose.

QEMU says of a forward only that it failed, so the kernel's tables of sockets are asked whether somebody has the port.
The tables are those of this thread's network namespace, in which QEMU was started. Of an image that it got open, QEMU
knows only a number: who opens it has asked about QEMU's lock before, and words are left for those who were quicker.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
import typing

from qemunet.errors import HostLacks, Taken
from qemunet.frozen import frozen
from qemunet.host import processes

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORWARD = re.compile(r"[Cc]ould not set up host forwarding rule '(tcp|udp):([^']*):(\d+)-")
_VNC = re.compile(r"-vnc (\S*):(\d+)\S*: .*Address already in use")
_LOCKED = re.compile(r'Failed to get (?:shared )?"[^"]*" lock\nIs another process using the image \[(.*)\]\?')
_DISK = re.compile(r'"(?:node-name|drive)": ?"disk\.(\d+)[.\d]*"')
_VFIO = re.compile(r"vfio ([0-9a-f:.]+): failed to open (/dev/vfio/\d+): Device or resource busy")
_NO_BACKEND = re.compile(
    r"network backend '(\w[\w-]*)' is not compiled in|Parameter 'type' does not accept value '([\w-]+)'"
)
_NOBODY = re.compile(r"Failed to connect to '([^']+)': ([^\n]+)")
_REMEDIES = dict.fromkeys(("stream", "dgram"), "install QEMU 7.2 or newer")
_PASSED = "/dev/fdset/"
_VM_LOG = re.compile(r"(/.*)/vm/([^/]+)/qemu\.log")
_VNC_BASE = 5900
_UNCONNECTED = "07"  # of UDP: it hears whoever calls
_TIME_WAIT, _LISTENING = "06", "0A"  # a listener is the likelier culprit; the dead hold nothing


@frozen
class Socket:
    """A row of the kernel's table of sockets."""

    address: Address
    port: int
    state: str  # two hexadecimal digits
    uid: int
    inode: str


def taken(vm: str, said: str) -> Taken | None:
    """Return what QEMU's words mean if somebody has what it wanted, and None if they are another story."""
    if found := _FORWARD.search(said):
        return _forward(vm, found[1], found[2], int(found[3]))
    if found := _VNC.search(said):
        return _display(vm, found[1], int(found[2]))
    if found := _LOCKED.search(said):
        return image_taken(vm, found[1]) if not found[1].startswith(_PASSED) else _passed(vm, said[: found.start()])
    if found := _VFIO.search(said):
        what = f"{found[1]} is in an IOMMU group of which somebody else has a device: {opener(found[2])} has {found[2]}"
        return Taken(what, where=f"vm.{vm}", hint="a group is given to one guest as a whole; end the other one")
    return None


def meant(vm: str, said: str) -> Taken | HostLacks | None:
    """Return what QEMU's words about a backend mean: somebody has it, nobody is there, or this QEMU has none such."""
    return taken(vm, said) or _without(vm, said)


def _without(vm: str, said: str) -> HostLacks | None:
    if nobody := _NOBODY.search(said):
        what = f"somebody who listens at {nobody[1]}, for vm.{vm} ({nobody[2].strip()})"
        return HostLacks([what], hint="start the other side first; it is the one that listens")
    found = _NO_BACKEND.search(said)
    if found is None:
        return None
    kind = found[1] or found[2]
    hint = _REMEDIES.get(kind, "install a QEMU that is built with it, as Debian's qemu-system-x86 is")
    text = f"a QEMU with the network backend {kind}, for vm.{vm} (`qemu-system-x86_64 -netdev help` lists what it has)"
    return HostLacks([text], hint=hint)


def opener(path: str) -> str:
    """Name who has a file open beside us, as far as one may see."""
    for pid in processes.all_pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and path in _open_files(pid):
                return _guest_or_program(pid)
    return "somebody"


def image_taken(vm: str, path: str) -> Taken:
    """Return the error for an image on which another process has QEMU's lock."""
    holder = next(processes.holders(path), None)
    return _image(f"vm.{vm}", path, "another process" if holder is None else _guest_or_program(holder))


def _passed(vm: str, said: str) -> Taken:
    disk = _DISK.findall(said)
    return _image(f"vm.{vm}.disk[{disk[-1]}]" if disk else f"vm.{vm}", "its image", "another process")


def _image(where: str, what: str, by: str) -> Taken:
    hint = "an image has one writer, or any number of readers: `readonly = true` or `snapshot = true` makes one of them"
    return Taken(f"{what} is in use by {by}", where=where, hint=hint)


def _forward(vm: str, protocol: str, address: str, port: int) -> Taken | None:
    holder = _holder(protocol, address or "0.0.0.0", port)  # noqa: S104  it is what QEMU takes it for
    if holder is None:  # it failed for another reason: no right to the port, no such address
        return None
    hint = "choose another port of the host in `forward`, or end that process"
    return Taken(f"{_said(protocol, address, port)} is in use by {_who(holder)}", where=f"vm.{vm}", hint=hint)


def _display(vm: str, address: str, number: int) -> Taken:
    port = _VNC_BASE + number
    holder = _holder("tcp", address.strip("[]"), port)
    by = _who(holder) if holder else "somebody"
    what = f"VNC display {number}, {_said('tcp', address, port)},"
    return Taken(f"{what} is in use by {by}", where=f"vm.{vm}", hint='choose another N in `display = "vnc=ADDR:N"`')


def _said(protocol: str, address: str, port: int) -> str:
    return f"{protocol} {address or '0.0.0.0'}:{port}"  # noqa: S104


# ---------------------------------------------------------------- who has a port


def _holder(protocol: str, address: str, port: int) -> Socket | None:
    """Return a socket that is in the way of one of this address and port."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:  # a name: whatever it stands for
        wanted = ipaddress.IPv6Address(0)
    known = [one for one in _sockets(protocol) if one.port == port and one.state != _TIME_WAIT]
    near = [one for one in known if _collide(one.address, wanted)]
    return min(near, key=lambda one: (one.state != _LISTENING, one.address != wanted), default=None)


def listeners(protocol: str, address: str, first: int, last: int) -> Iterator[tuple[str, str]]:
    """Yield who listens on some of these ports of the host: ``tcp/8080``, and the program.

    `address` is empty for all of the host's. A client's socket is not in the way.
    """
    wanted = ipaddress.ip_address(address) if address else None
    for one in _sockets(protocol):
        served = one.state == (_LISTENING if protocol == "tcp" else _UNCONNECTED)
        if served and first <= one.port <= last and (wanted is None or _collide(one.address, wanted)):
            yield f"{protocol}/{one.port}", _who(one)


def _collide(one: Address, other: Address) -> bool:
    """Whether two sockets of the same port are in each other's way; IPv6's ``::`` is for IPv4 as well."""
    if one == other:
        return True
    if one.version == other.version:
        return one.is_unspecified or other.is_unspecified
    sixth = one if one.version == 6 else other
    return sixth.is_unspecified


def _sockets(protocol: str) -> Iterator[Socket]:
    for name in (protocol, f"{protocol}6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/thread-self/net/{name}") as table:
            next(table)  # the names of the columns
            for row in table:
                fields = row.split()
                number, _, port = fields[1].partition(":")
                yield Socket(_address(number), int(port, 16), fields[3], int(fields[7]), fields[9])


def _address(digits: str) -> Address:
    """Read an address as the kernel prints it: in words of 32 bits, each a number in the machine's byte order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(struct.pack("=I", word) for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _who(socket: Socket) -> str:
    """Name the process that has a socket, or at least whose it is."""
    for pid in processes.all_pids():
        with contextlib.suppress(OSError):
            if f"socket:[{socket.inode}]" in _open_files(pid):
                return _program(pid)
    return f"a process of user {socket.uid}"


def tap_user(name: str) -> str:
    """Name who has a tap open, as far as one may see; of several taps of that name, who is in our namespace."""
    found = sorted(filter(lambda pid: _has_tap(pid, name), processes.all_pids()), key=_is_elsewhere)
    return _guest_or_program(found[0]) if found else "somebody"


def _has_tap(pid: int, name: str) -> bool:
    """Tell whether a process has a tap of that name open, in whatever namespace (proc_pid_fdinfo(5))."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{entry}") as file:
                if f"iff:\t{name}\n" in file.read():
                    return True
    return False


def _is_elsewhere(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/thread-self/ns/net").st_ino
    return True


def _guest_or_program(pid: int) -> str:
    """Name the guest of which a process is the QEMU, by its log; or else the program."""
    with contextlib.suppress(OSError):
        if found := _VM_LOG.fullmatch(os.readlink(f"/proc/{pid}/fd/2")):
            return f"vm {found[2]} of {found[1]} (pid {pid})"
        return _program(pid)
    return f"process {pid}"


def _program(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return f"{file.read().strip()} (pid {pid})"


def _open_files(pid: int) -> Iterator[str]:
    """Yield what a process has open; a descriptor that is closed meanwhile is left out."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")
