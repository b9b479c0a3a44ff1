"""Limits and impairs what the kernel sends by links of ours, and finds out whether a kernel can."""

from __future__ import annotations

import errno
import os
import struct
import typing

from qemunet.errors import Taken
from qemunet.host import links, netns
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished
from qemunet.model.impair import ALL, Impairment
from qemunet.steps import Divert, Impair, Limit, Undivert, Unimpair, Unlimit
from qemunet.steps.rates import WAITING

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.host.netlink import Netlink
    from qemunet.steps import Bucket

_NEWQDISC, _DELQDISC, _NEWTFILTER, _NEWACTION = 36, 37, 44, 48
_KIND, _OPTIONS = 1, 2
_ROOT, _INGRESS_PARENT = 0xFFFF_FFFF, 0xFFFF_FFF1
_OURS, _INGRESS = 0x1_0000, 0xFFFF_0000  # the handles 1: and ffff:
_BELOW, _CLASS, _TRIAL = 0x2_0000, 0x1_0001, 0x3_0000  # the handles 2:, 1:1 and 3:
_NETEM_REORDER, _NETEM_CORRUPT, _NETEM_LATENCY64, _NETEM_JITTER64 = 3, 4, 10, 11
_NETEM = struct.Struct("=IIIIII")  # struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
_TBF_PARAMETERS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_SELECTOR, _U32_ACTION = 5, 7
_ACTIONS, _ACTION_KIND, _ACTION_OPTIONS, _MIRRED_PARAMETERS = 1, 1, 2, 2
_ETHERNET, _TERMINAL, _STOLEN, _REDIRECT_OUT = 1, 1, 4, 1
_ANYTHING = 1 << 16 | struct.unpack("=H", struct.pack("!H", 3))[0]  # priority 1, ETH_P_ALL

_TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_RATE = struct.Struct("=xBxxxxxxI")  # struct tc_ratespec: link layer, bytes per second
_SELECTOR = struct.Struct("=BxB13x16x")  # struct tc_u32_sel and one key, all of zeros: flags, number of keys
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, action, two counts, what to do, index of an interface
_TCAMSG = bytes(4)  # struct tcamsg: no family
_LOOPBACK = 1  # the index of lo, in every namespace
_MODPROBE = ("/usr/sbin/modprobe", "/sbin/modprobe", "/usr/bin/modprobe")


def perform(net: Netlink, step: Limit | Unlimit | Impair | Unimpair | Divert | Undivert) -> None:
    """Do a step about rates and impairments."""
    match step:
        case Limit():
            limit(net, step)
        case Unlimit():
            unlimit(net, step)
        case Impair():
            impair(net, step)
        case Unimpair():
            _remove(net, step.name, _OURS, _ROOT)
        case Divert():
            divert(net, step)
        case Undivert():
            undivert(net, step)
        case _:
            typing.assert_never(step)


def limit(net: Netlink, step: Limit) -> None:
    """Put a bucket on a link, or change the one that it has. Raises Vanished if no link of ours has that name."""
    net.do(_bucket(_ours(net, step.name), step.bucket, below=step.below))


def unlimit(net: Netlink, step: Unlimit) -> None:
    """Take the bucket from a link; raises Vanished if there is none of ours."""
    _remove(net, step.name, *((_BELOW, _CLASS) if step.below else (_OURS, _ROOT)))


def impair(net: Netlink, step: Impair) -> None:
    """Impair what a link sends, or otherwise than until now. Raises Vanished if no link of ours has that name."""
    net.do(_impairment(_ours(net, step.name), step.impairment, _OURS))


def divert(net: Netlink, step: Divert) -> None:
    """Redirect all that arrives by a link to an ifb. Raises Vanished if one of them is not there, Taken, OSError."""
    index, through = _ours(net, step.name), _ours(net, step.through)
    try:
        net.do(_ingress(index))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise Taken(f"somebody has a qdisc for what arrives by {step.name}") from error
    try:
        net.do(_everything(index, _redirect(through)))
    except BaseException:
        _remove(net, step.name, _INGRESS, _INGRESS_PARENT)
        raise


def undivert(net: Netlink, step: Undivert) -> None:
    """Redirect nothing more; raises Vanished if nothing was."""
    _remove(net, step.name, _INGRESS, _INGRESS_PARENT)


def _ours(net: Netlink, name: str) -> int:
    """Return the index of a link of ours: a tap's name may be somebody else's when the tap is gone."""
    link = links.find(net, name)
    if link is None or link.group < links.OURS:
        raise Vanished(errno.ENODEV, f"there is no interface {name} of ours")
    return link.index


def _remove(net: Netlink, name: str, handle: int, parent: int) -> None:
    try:
        net.do(nl.Request(_DELQDISC, 0, _TCMSG.pack(0, _ours(net, name), handle, parent, 0)))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):  # no qdisc, one of another handle, no link
            raise
        raise Vanished(*error.args) from error


# ---------------------------------------------------------------- messages


def _bucket(index: int, bucket: Bucket, *, below: bool = False) -> nl.Request:
    """Return what makes the bucket or changes it: a qdisc that has the handle already is changed while it works."""
    rate = bucket.rate // 8
    parameters = _RATE.pack(_ETHERNET, min(rate, 0xFFFF_FFFF)) + bytes(_RATE.size)  # the second would be a peak's
    options = nl.raw(_TBF_PARAMETERS, parameters + struct.pack("=III", bucket.queue, 0, 0))
    options += nl.number(_TBF_BURST, bucket.burst)
    if rate > 0xFFFF_FFFF:
        options += nl.raw(_TBF_RATE64, struct.pack("=Q", rate))
    place = (_BELOW, _CLASS) if below else (_OURS, _ROOT)
    body = _TCMSG.pack(0, index, *place, 0) + nl.text(_KIND, "tbf") + nl.nested(_OPTIONS, options)
    return nl.Request(_NEWQDISC, nl.CREATE | nl.REPLACE, body)


def _impairment(index: int, one: Impairment, handle: int) -> nl.Request:
    """Return what makes the impairment or changes it; its times are in nanoseconds, of the root's own children."""
    gap = 1 if one.reorder else 0  # without one, nothing is reordered
    options = _NETEM.pack(0, WAITING, _share(one.loss), gap, _share(one.duplicate), 0)
    for kind, time in ((_NETEM_LATENCY64, one.delay), (_NETEM_JITTER64, one.jitter)):
        options += nl.raw(kind, struct.pack("=q", time * 1000))
    for kind, share in ((_NETEM_REORDER, one.reorder), (_NETEM_CORRUPT, one.corrupt)):
        options += nl.raw(kind, struct.pack("=II", _share(share), 0))  # without correlation
    body = _TCMSG.pack(0, index, handle, _ROOT, 0) + nl.text(_KIND, "netem") + nl.raw(_OPTIONS, options)
    return nl.Request(_NEWQDISC, nl.CREATE | nl.REPLACE, body)


def _share(share: int) -> int:
    return share * 0xFFFF_FFFF // ALL


def _ingress(index: int) -> nl.Request:
    body = _TCMSG.pack(0, index, _INGRESS, _INGRESS_PARENT, 0) + nl.text(_KIND, "ingress")
    return nl.Request(_NEWQDISC, nl.CREATE | nl.EXCLUSIVE, body)


def _everything(index: int, *actions: bytes) -> nl.Request:
    """Return a filter that does something with all that arrives."""
    options = nl.raw(_U32_SELECTOR, _SELECTOR.pack(_TERMINAL, 1))
    options += nl.nested(_U32_ACTION, *actions) if actions else b""
    body = _TCMSG.pack(0, index, 0, _INGRESS, _ANYTHING) + nl.text(_KIND, "u32") + nl.nested(_OPTIONS, options)
    return nl.Request(_NEWTFILTER, nl.CREATE | nl.EXCLUSIVE, body)


def _redirect(to: int) -> bytes:
    what = nl.raw(_MIRRED_PARAMETERS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT_OUT, to))
    first = 1  # of several actions
    return nl.nested(first, nl.text(_ACTION_KIND, "mirred"), nl.nested(_ACTION_OPTIONS, what))


# ---------------------------------------------------------------- what a kernel can


def lacking() -> frozenset[str]:
    """Return which of the modules that rates need this kernel does not have, seen in a namespace made for that.

    Where none can be made nothing is known to be lacking. Modules that can be loaded are loaded by the kernel.
    """
    _load_ifb()
    try:
        return netns.in_fresh_namespace(lambda: frozenset(_missing()))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
            raise
        return frozenset()


def lacking_netem() -> frozenset[str]:
    """Return the module that impairs, if this kernel does not have it, likewise."""
    try:
        able = netns.in_fresh_namespace(_impairs)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
            raise
        return frozenset()
    return frozenset() if able else frozenset({"sch_netem"})


def _impairs() -> bool:
    net = nl.Netlink(nl.open_socket())
    try:
        return _takes(net, _impairment(_LOOPBACK, Impairment(delay=1), _TRIAL))
    finally:
        net.close()


def _load_ifb() -> None:
    """Load the module without the two interfaces that it would make in the first namespace, for good."""
    import subprocess

    program = next((path for path in _MODPROBE if os.access(path, os.X_OK)), None)
    if program is not None:
        subprocess.run([program, "-q", "ifb", "numifbs=0"], check=False, capture_output=True)


def _missing() -> Iterator[str]:
    from qemunet.steps import Bucket

    ifb = links.ifinfo() + nl.nested(links.LINKINFO, nl.text(1, "ifb"))
    action = _TCAMSG + nl.nested(_ACTIONS, _redirect(_LOOPBACK))
    trials = {
        "sch_tbf": _bucket(_LOOPBACK, Bucket(8000, 4096, 4096)),
        "ifb": nl.Request(nl.NEWLINK, nl.CREATE | nl.EXCLUSIVE, ifb),
        "act_mirred": nl.Request(_NEWACTION, nl.CREATE | nl.EXCLUSIVE, action),
        "sch_ingress": _ingress(_LOOPBACK),
        "cls_u32": _everything(_LOOPBACK),  # cannot be tried without the one before
    }
    net = nl.Netlink(nl.open_socket())
    try:
        for module, request in trials.items():
            if not _takes(net, request):
                yield module
                if module == "sch_ingress":
                    return
    finally:
        net.close()


def _takes(net: Netlink, request: nl.Request) -> bool:
    try:
        net.do(request)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        return False
    return True
