"""Opens what QEMU gets open: taps and macvtaps, files, overlays, and sockets."""

from __future__ import annotations

from qemunet import steps
from qemunet.errors import unreachable
from qemunet.host import files, taps
from qemunet.steps import AdoptTap, LoadFile, OpenFile, OpenMacvtap, OpenOverlay, OpenTap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.host.netlink import Netlink
    from qemunet.host.netns import Place
    from qemunet.steps import RemoveSocket

    OpenStep = OpenTap | AdoptTap | steps.OpenSocket | OpenMacvtap | OpenFile | LoadFile | OpenOverlay


def opened(net: Netlink, place: Place, step: OpenStep, runtime: str) -> list[int]:  # noqa: RET503 - `unreachable` never returns
    """Open what a step wants; return its descriptors. Raises as those who open it."""
    match step:
        case OpenTap():
            return taps.open_tap(net, place, step)
        case AdoptTap():
            return taps.adopt(net, place, step)
        case OpenMacvtap():
            return taps.open_macvtap(place, step)
        case OpenFile():
            return [files.open_file(step)]
        case LoadFile():
            return [files.load(step)]
        case OpenOverlay():
            from qemunet.host import images

            return [images.open_overlay(step, runtime)]
        case steps.OpenSocket():
            from qemunet.host import sockets

            return [place.inside(lambda: sockets.open_socket(step))]
        case _:
            unreachable(step)


def remove_socket(step: RemoveSocket, *, in_use: bool) -> None:
    """Remove a socket that was opened; raises Vanished, or OSError if a QEMU of ours that runs may listen there yet."""
    from qemunet.host import sockets

    sockets.remove(step, in_use=in_use)
