"""Cards behind which is no interface of the host: what has to be said of each kind, and what it becomes."""

from __future__ import annotations

from qemunet.config import ends, hostdev, units
from qemunet.config.cards import is_virtio
from qemunet.config.scene import Scene, absolute
from qemunet.config.spec import LabSpec, NicMode, NicSpec
from qemunet.model.nic import AsItIs, MacvtapBackend, Nic, OnBridge, OnNetwork, PointToPoint, TapBackend
from qemunet.model.remote import (
    Address,
    DgramBackend,
    HostdevBackend,
    InetAddress,
    McastBackend,
    PasstBackend,
    Remote,
    StreamBackend,
    UnixAddress,
    VdeBackend,
    VhostUserBackend,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qemunet.config.spec import VmSpec
    from qemunet.model.nic import UserBackend
    from qemunet.model.vm import RunAs

PASST = "passt"
_NEEDED = {
    NicMode.MCAST: ("group", "needs the group", 'as in group = "230.0.0.1:1234"'),
    NicMode.VDE: ("path", "needs the directory of its switch", 'as in path = "/run/vde.ctl"'),
    NicMode.VHOST_USER: ("path", "needs the socket of its backend", 'as in path = "/run/openvswitch/vhost0"'),
}


def check(spec: LabSpec, nic: NicSpec, mode: NicMode) -> None:
    """Raise ConfigError if it does not say where the other end is."""
    if mode is NicMode.HOSTDEV:
        hostdev.check(spec, nic)
    if mode is NicMode.STREAM and (nic.listen is None) == (nic.connect is None):
        hint = "one card listens, and the other one connects to that"
        key = "listen" if nic.listen is None else "connect"
        what = "neither listen nor connect" if nic.listen is None else "both listen and connect"
        raise spec.error(f"{nic.path}.{key}", f'mode "stream" with {what}', hint)
    if mode is NicMode.DGRAM:
        for key in ("listen", "connect"):
            _check_datagrams(spec, nic, key)
    if mode in _NEEDED:
        key, what, hint = _NEEDED[mode]
        if (nic.socket if key == "path" else nic.group) is None:
            raise spec.error(f"{nic.path}.{key}", f'mode "{mode}" {what}', hint)
    door = UnixAddress(nic.socket or "") if mode is NicMode.VHOST_USER else None
    for key, one in (("listen", nic.listen), ("connect", nic.connect), ("path", door)):
        if isinstance(one, UnixAddress) and len(path := absolute(spec, one.path).encode()) > ends.LONGEST:
            problem = f"{path.decode()} is longer than the {ends.LONGEST} bytes of a socket's path"
            raise spec.error(f"{nic.path}.{key}", problem)
    if nic.connect is not None and not (isinstance(nic.connect, UnixAddress) or nic.connect.host):
        raise spec.error(f"{nic.path}.connect", f'"{nic.connect}" names nobody to connect to', 'as in "192.0.2.7:5000"')


def _check_datagrams(spec: LabSpec, nic: NicSpec, key: str) -> None:
    found = getattr(nic, key)
    if found is None:
        hint = 'as in listen = "192.0.2.1:5000" and connect = "192.0.2.2:5000", and the other one the other way round'
        raise spec.error(f"{nic.path}.{key}", 'mode "dgram" needs both its own address and the other one', hint)
    if isinstance(found, UnixAddress):
        raise spec.error(f"{nic.path}.{key}", 'mode "dgram" is UDP', 'mode = "stream" has sockets in the file system')


def backend(scene: Scene, nic: NicSpec, mode: NicMode) -> Remote:
    """Return what is behind a card of such a mode."""
    match mode:
        case NicMode.STREAM:
            address = nic.listen or nic.connect
            assert address is not None, "checked with the file"
            return StreamBackend(absolute_end(scene.spec, address), nic.listen is not None)
        case NicMode.DGRAM:
            assert isinstance(nic.listen, InetAddress), "checked with the file"
            assert isinstance(nic.connect, InetAddress), "checked with the file"
            return DgramBackend(nic.listen, nic.connect)
        case NicMode.MCAST:
            assert nic.group is not None, "checked with the file"
            return McastBackend(nic.group, nic.local)
        case NicMode.PASST:
            return PasstBackend(nic.forward or (), nic.dns)
        case NicMode.VHOST_USER:
            return VhostUserBackend(absolute(scene.spec, nic.socket or ""))
        case NicMode.HOSTDEV:
            assert nic.device is not None, "checked with the file"
            return HostdevBackend(nic.device)
        case _:
            return VdeBackend(absolute(scene.spec, nic.socket or ""))


def sockets(spec: LabSpec, nics: Iterable[NicSpec]) -> frozenset[str]:
    """Return the sockets that have to be there for cards."""
    paths = (nic.socket for nic in nics if nic.mode is NicMode.VDE and nic.socket is not None)
    return frozenset(control(absolute(spec, path)) for path in paths)


def doors(spec: LabSpec, nics: Iterable[NicSpec]) -> frozenset[str]:
    """Return the sockets that have to be there for cards, and at which only QEMU may knock."""
    paths = (nic.socket for nic in nics if nic.mode is NicMode.VHOST_USER and nic.socket is not None)
    return frozenset(absolute(spec, path) for path in paths)


def shared_memory(scene: Scene, vm: VmSpec, cards: Iterable[tuple[NicSpec, Nic]], wanted: bool | None) -> bool:
    """Tell whether the memory of a vm is to be shared; raises ConfigError if it is not and a card needs that."""
    for spec, nic in cards:
        if not isinstance(nic.backend, VhostUserBackend):
            continue
        if not is_virtio(nic.model):
            problem = f"a vhost-user backend knows virtio alone, not {nic.model}"
            raise scene.spec.error(f"{spec.path}.model", problem, 'leave it out, or model = "virtio"')
        if wanted is False:
            problem = "the card's backend has to see the guest's memory, which was not shared when that started"
            hint = f"shared-memory = true in [{vm.path}], or such a card from the start, and start it again"
            raise scene.spec.error(f"{spec.path}.mode", problem, hint)
        wanted = True
    return bool(wanted)


def control(switch: str) -> str:
    """Return the socket by which a vde_switch takes its users."""
    return f"{switch}/ctl"


def check_host(scene: Scene, nic: NicSpec, backend: Remote, guest: hostdev.Guest) -> None:
    """Note what the host lacks: somebody at a socket, or the right of QEMU's user to be there."""
    user = guest.user
    if isinstance(backend, HostdevBackend):
        hostdev.check_host(scene, nic, backend.device, guest)
    if isinstance(backend, PasstBackend) and PASST not in scene.facts.programs:
        scene.lack(f"{PASST}, for {nic.path}", f"Debian has it in {PASST}")
    if isinstance(backend, VhostUserBackend):
        _check_door(scene, nic, backend.path, user)
    if not isinstance(backend, VdeBackend):
        return
    fact = scene.facts.sockets.get(control(backend.path))
    if fact is None or not fact.answered:
        hint = f"Debian has it in vde2: `vde_switch -daemon -s {backend.path} -m 666`"
        scene.lack(f"a vde_switch at {backend.path}", hint)
    elif user is not None and not fact.lets_in(user.uid, user.gid):
        who = f"the right of QEMU, which is not root ({user.uid}), to use the vde_switch at {backend.path}"
        hint = f'`vde_switch … -m 666` lets everybody in; or {nic.path.partition(".nic")[0]}.user = "…" who may'
        scene.lack(who, hint)


def _check_door(scene: Scene, nic: NicSpec, path: str, user: RunAs | None) -> None:
    fact = scene.facts.sockets.get(path)
    if fact is None:
        hint = "start it first; it is the side that listens there"
        scene.lack(f"a vhost-user backend with the socket {path}", hint)
    elif user is not None and not fact.lets_in(user.uid, user.gid):
        who = f"the right of QEMU, which is not root ({user.uid}), to use the socket {path}"
        hint = f'`chmod 666 {path}` lets everybody in; or {nic.path.partition(".nic")[0]}.user = "…" who may'
        scene.lack(who, hint)


def written(backend: Remote) -> Iterator[tuple[str, str | tuple[str, ...] | None]]:
    """Yield what says of a card in a lab file what is behind it."""
    match backend:
        case StreamBackend(address=address, listen=listen):
            yield "mode", "stream"
            yield "listen" if listen else "connect", str(address)
        case DgramBackend(local=local, remote=remote):
            yield "mode", "dgram"
            yield "listen", str(local)
            yield "connect", str(remote)
        case McastBackend(group=group, local=interface):
            yield "mode", "mcast"
            yield "group", str(group)
            yield "local", interface
        case VdeBackend(path=path):
            yield "mode", "vde"
            yield "path", path
        case VhostUserBackend(path=path):
            yield "mode", "vhost-user"
            yield "path", path
        case PasstBackend(forwards=forwards, dns=dns):
            yield "mode", "passt"
            yield "forward", tuple(units.format_forward(one, own=True) for one in forwards) or None
            yield "dns", dns
        case HostdevBackend(device=device):
            yield "mode", "hostdev"
            yield "device", device


def user(backend: UserBackend) -> Iterator[tuple[str, str | bool | tuple[str, ...] | None]]:
    """Yield what a card in user mode has besides its mode."""
    yield "forward", tuple(units.format_forward(one, own=True) for one in backend.forwards) or None
    yield "restrict", backend.restrict
    yield "subnet", backend.subnet
    yield "hostname", backend.hostname
    yield "dns", backend.dns
    yield "tftp", backend.tftp
    yield "bootfile", backend.bootfile


def is_guardable(nic: Nic) -> bool:
    """Tell whether a card has an interface of which qemunet decides where it is."""
    return isinstance(nic.backend, MacvtapBackend) or (
        isinstance(nic.backend, TapBackend) and not isinstance(nic.backend.attach, AsItIs)
    )


def attached(
    attach: OnNetwork | OnBridge | PointToPoint | AsItIs,
) -> Iterator[tuple[str, str | tuple[str, ...] | None]]:
    """Yield what says where a tap is plugged in."""
    match attach:
        case AsItIs():
            pass
        case OnNetwork(network=network):
            yield "network", network
        case OnBridge(bridge=bridge):
            yield "bridge", bridge
        case PointToPoint(addresses=addresses, routes=routes):
            yield "address", addresses or None
            yield "routes", routes or None


def absolute_end(spec: LabSpec, address: Address) -> Address:
    """Return an address with a path that does not depend on where the file is."""
    return UnixAddress(absolute(spec, address.path)) if isinstance(address, UnixAddress) else address
