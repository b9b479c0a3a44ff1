"""Whether a card can have the tap that somebody else has made: it is there, it is a tap, and QEMU can use it."""

from __future__ import annotations

from qemunet.errors import Taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.scene import Scene
    from qemunet.config.spec import NicSpec
    from qemunet.facts import LinkFact, TunFact


def check(scene: Scene, spec: NicSpec, queues: int, address: str, bridge: str | None) -> None:
    """Note what the host lacks for it; `bridge` is what it is to be plugged into. Raises Taken."""
    name = spec.ifname or ""
    link = scene.link(name)
    many = " multi_queue" if queues > 1 else ""
    hint = f"`ip tuntap add dev {name} mode tap vnet_hdr{many}` makes one"
    if not scene.facts.tun:
        scene.lack("/dev/net/tun", "`modprobe tun` makes it; a container must be given it")
    if link is None:
        scene.lack(f"the tap {name}", hint)
    elif link.tun is None or not link.tun.tap:
        kind = "a tun without Ethernet" if link.tun is not None else f"a {link.kind}" if link.kind else "no tap"
        scene.lack(f"a tap {name} (it is {kind})", f"`ip tuntap` lists the taps ({spec.path}.ifname)")
    else:
        _check_flags(scene, spec, link.tun, queues, hint)
        _check_place(scene, spec, link, address, bridge)


def _check_flags(scene: Scene, spec: NicSpec, tun: TunFact, queues: int, hint: str) -> None:
    if tun.pi:
        scene.lack(f"a tap {spec.ifname} without packet information (pi), with which nothing passes QEMU", hint)
    if queues > 1 and not tun.many:
        scene.lack(f"a tap {spec.ifname} made for several queues", f"{hint}; or {spec.path}.queues = 1")
    uid = scene.facts.uid
    if uid and tun.owner not in (None, uid):
        whose = f"the right to open {spec.ifname}, which user {tun.owner} has"
        scene.lack(whose, f"it is made with `user {uid}` to be yours, or run it with sudo")
    if uid and (spec.network or spec.bridge):
        scene.lack(f"the right to plug {spec.ifname} into a bridge (you are not root)", "leave that to who has made it")


def _check_place(scene: Scene, spec: NicSpec, link: LinkFact, address: str, bridge: str | None) -> None:
    if not scene.strict:
        return
    if link.mac == address:
        hint = 'give the card another one with mac = "…": who has it twice answers himself'
        raise Taken(f"{address} is the address of the tap {spec.ifname} itself", where=f"{spec.path}.mac", hint=hint)
    if bridge is not None and link.master not in (None, bridge):
        hint = "leave out network and bridge to leave it there"
        raise Taken(f"{spec.ifname} is a port of {link.master}", where=f"{spec.path}.ifname", hint=hint)
