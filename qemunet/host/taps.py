"""Opens taps and macvtaps: descriptors that go to QEMU, and die with it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from qemunet.errors import HostLacks, Taken
from qemunet.host import links, netns, sysctls
from qemunet.host import netlink as nl
from qemunet.steps import SetPort, sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import TunFact
    from qemunet.host.netlink import Netlink
    from qemunet.host.netns import Place
    from qemunet.steps import AdoptTap, OpenMacvtap, OpenTap

TUN = "/dev/net/tun"
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_TAP, _NO_PI, _VNET_HDR, _MULTI_QUEUE, _EXCLUSIVE = 0x2, 0x1000, 0x4000, 0x100, 0x8000
_FLAGS = _TAP | _NO_PI | _VNET_HDR
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK


def open_tap(net: Netlink, place: Place, step: OpenTap) -> list[int]:
    """Make a tap and return its descriptors, one per queue. Raises Taken if its name is; then nothing was made."""
    links.check_name(step.name)
    fds: list[int] = []
    try:
        for queue in range(step.queues):
            fds.append(place.inside(_open_tun))
            _attach(net, fds[-1], step, first=queue == 0)
        _set_up(net, place, step)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def adopt(net: Netlink, place: Place, step: AdoptTap) -> list[int]:
    """Open a tap that is there with the flags that it has. Raises HostLacks if there is none, Taken if it is in use."""
    link = links.find(net, step.name)
    if link is None or link.tun is None or not link.tun.tap or step.index not in (0, link.index):
        raise HostLacks([f"the tap {step.name}"], hint=f"ip tuntap add dev {step.name} mode tap vnet_hdr")
    if link.tun.used:
        raise _in_use(link.name)
    fds: list[int] = []
    try:
        for _ in range(step.queues):
            fds.append(place.inside(_open_tun))
            _join(fds[-1], link.name, link.tun)
        now = links.find(net, step.name)
        if now is None or now.index != link.index:  # it went meanwhile, and the kernel has made another, which is ours
            raise HostLacks([f"the tap {step.name}"], hint="it was deleted at this moment")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def _join(fd: int, name: str, tun: TunFact) -> None:
    """Tie a descriptor to a tap of somebody else's. The kernel would take over other flags than it has."""
    flags = _TAP | _NO_PI | (_VNET_HDR if tun.vnet_hdr else 0) | (_MULTI_QUEUE if tun.many else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise _in_use(name) from error


def _in_use(name: str) -> Taken:
    from qemunet.host import complaints

    hint = "a tap has one user: end that one, or have another tap made"
    return Taken(f"the tap {name} is in use by {complaints.tap_user(name)}", hint=hint)


def open_macvtap(place: Place, step: OpenMacvtap) -> list[int]:
    """Open the device of a macvtap, once per queue."""
    device = place.inside(lambda: netns.macvtap_device(step.name))
    fds: list[int] = []
    try:
        for _ in range(step.queues):
            fds.append(netns.open_device(device, _OPEN))
            _check_macvtap(fds[-1], step)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def can_open(path: str) -> bool:
    """Tell whether a device can be opened for reading and writing."""
    try:
        os.close(os.open(path, _OPEN))
    except OSError:
        return False
    return True


def _open_tun() -> int:
    try:
        return os.open(TUN, _OPEN)
    except FileNotFoundError as error:
        raise HostLacks([f"{TUN} (the kernel's tun driver)"], hint="modprobe tun") from error


def _attach(net: Netlink, fd: int, step: OpenTap, *, first: bool) -> None:
    """Tie a descriptor to the tap; the first one must make it, or we would share somebody else's."""
    flags = _FLAGS | (_MULTI_QUEUE if step.queues > 1 else 0) | (_EXCLUSIVE if first else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", step.name.encode(), flags))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise Taken(links.holder(links.find(net, step.name), step.name)) from error


def _set_up(net: Netlink, place: Place, step: OpenTap) -> None:
    """Mark the tap and bring it up. The kernel sets address and MTU before the master, and flags after it."""
    master = b""
    if step.master:
        key = f"net.ipv6.conf.{sysctl_name(step.name)}.disable_ipv6"
        place.inside(lambda: sysctls.write_if_there(key, "1"))
        master = nl.number(links.MASTER, net.index(step.master))
    up = links.ifinfo(0, links.UP, links.UP) + nl.text(links.IFNAME, step.name)
    head = links.ifinfo() + nl.text(links.IFNAME, step.name) if step.settings else up
    properties = nl.number(links.GROUP, step.mark.group) + nl.mac(links.ADDRESS, step.mac)
    change = nl.Request(nl.NEWLINK, 0, head + properties + nl.number(links.MTU, step.mtu) + master)
    try:
        net.do(links.altname(step.name, step.mark), change)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise Taken(links.holder(links.find(net, step.mark.altname), step.mark.altname)) from error
    if step.settings:
        _settle(net, step)
        net.do(nl.Request(nl.NEWLINK, 0, up))


def _settle(net: Netlink, step: OpenTap) -> None:
    for setting in step.settings:
        if isinstance(setting, SetPort):
            links.set_port(net, setting)
        else:
            from qemunet.host import vlans

            vlans.put(net, setting)


def _check_macvtap(fd: int, step: OpenMacvtap) -> None:
    """Make sure that the device is the right one, and give it what QEMU expects."""
    answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    name = answer[:16].partition(b"\0")[0].decode(errors="surrogateescape")
    if name != step.name:
        raise OSError(errno.ENODEV, f"its device belongs to {name}")
    flags = _FLAGS | (_MULTI_QUEUE if step.queues > 1 else 0)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", step.name.encode(), flags))
