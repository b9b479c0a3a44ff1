"""``nic stats`` and ``nic capture``: what went through the cards of a running vm, counted and frame by frame."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

from qemunet.cli import render
from qemunet.cli.known import runtime, vm_named
from qemunet.cli.parser import add_json, count, seconds
from qemunet.errors import NotFound, QemunetError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any, Protocol

    from qemunet.cli.parser import Commands, Parser
    from qemunet.cli.sink import Sink
    from qemunet.host.counters import Counters
    from qemunet.host.netns import Place
    from qemunet.records import NicRecord, VmRecord
    from qemunet.state import Runtime

    class Source(Protocol):
        """Where frames come from; `over` says why there will be no more."""

        over: str

        def fileno(self) -> int: ...
        def read(self) -> list[bytes]: ...
        def stop(self) -> None: ...
        def dropped(self) -> int | None: ...
        def close(self) -> None: ...


_WAYS, _COUNTED = ("rx", "tx"), ("bytes", "packets", "errors", "dropped")
_COLUMNS = tuple(f"{way}_{what}" for way in _WAYS for what in _COUNTED)
_STOPPED = "stopped"  # why a source is over when we wanted it so
_ADOPTION = 10.0  # seconds for a new keeper to be there
_GLANCE = 0.1  # seconds between two looks whether the user interrupted


# ---------------------------------------------------------------- nic stats


def _stats_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("--watch", action="store_true", help="look again and again, until ^C or the vm's end")
    parser.add_argument("--interval", metavar="TIME", type=seconds, help="time between two looks (default: 1s)")
    add_json(parser)


def _stats(args: Namespace) -> int:
    if args.interval is not None and not args.watch:
        raise UsageError("--interval goes with --watch")
    if args.interval == 0:
        raise UsageError("--interval is at least 1s")
    if args.watch:
        return _watch(args, args.interval or 1)
    rows = _rows(runtime(), args.vm)
    if args.json:
        render.as_json(rows)
    else:
        _print(rows)
    return 0


def _watch(args: Namespace, interval: float) -> int:
    """Look until ^C, which is the normal end of it, as is the vm's."""
    here = runtime()
    rows, height = _rows(here, args.vm), 0
    due = time.monotonic()
    try:
        while True:
            height = _look(rows, height, as_json=args.json)
            due = max(due + interval, time.monotonic())
            select.select([], [], [], max(0.0, due - time.monotonic()))
            rows = _rows(here, args.vm)
    except KeyboardInterrupt:
        return 0
    except NotFound:
        render.note(f"{args.vm} has ended")
        return 0


def _look(rows: list[dict[str, Any]], height: int, *, as_json: bool) -> int:
    """Print one look, in place of the one before if that can be; return how many lines that took."""
    if as_json:
        import json

        print(json.dumps({"time": round(time.time(), 3), "nics": rows}), flush=True)
        return 0
    if height:
        print(f"\x1b[{height}A\x1b[J" if _redraws() else "\n", end="")
    _print(rows)
    sys.stdout.flush()
    return len(rows) + 1


def _redraws() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _print(rows: list[dict[str, Any]]) -> None:
    header = ("NIC", *(column.upper().replace("_", "-") for column in _COLUMNS))
    render.table(header, [(row["id"], *(_text(row[column]) for column in _COLUMNS)) for row in rows])


def _rows(here: Runtime, name: str) -> list[dict[str, Any]]:
    """Return what each card of the vm received and sent; nulls where the host does not see it."""
    vm = _running(here, name)
    return [_row(nic, _seen_by_the_guest(here, vm, nic)) for nic in vm.nics]


def _row(nic: NicRecord, counters: Counters | None) -> dict[str, Any]:
    row: dict[str, Any] = {"id": nic.id, "mode": nic.mode, "ifname": nic.ifname}
    for way in _WAYS:
        flow = getattr(counters, way, None)
        row |= {f"{way}_{what}": getattr(flow, what, None) for what in _COUNTED}
    return row


def _seen_by_the_guest(here: Runtime, vm: VmRecord, nic: NicRecord) -> Counters | None:
    if nic.ifname is None:
        return None
    found = _counted(_place(here, nic), here, vm, nic.ifname)
    # What the host sends into a tap, the guest receives; a macvtap is an interface of the guest's own.
    return found.from_behind() if found and nic.mode == "tap" else found


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


# ---------------------------------------------------------------- nic capture


def _capture_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("nic", metavar="NIC", help="its id, its MAC address, or a network that no other card is on")
    parser.add_argument(
        "-w", "--write", metavar="FILE", required=True, help="a pcap file or a FIFO; - is standard output"
    )
    parser.add_argument("-c", "--count", metavar="N", type=count, help="end after that many packets")
    parser.add_argument("--duration", metavar="TIME", type=seconds, help="end after that time (30s, 5m)")


def _capture(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.cli.sink import Sink
    from qemunet.live.record import CAPTURE_INSIDE, pick, refuse_device

    here = runtime()
    vm = _running(here, args.vm)
    nic = pick(vm.nics, vm.name, args.nic)
    refuse_device(nic, vm.name, CAPTURE_INSIDE)
    interrupts.install()
    deadline = time.monotonic() + args.duration if args.duration is not None else float("inf")
    with contextlib.closing(Sink(args.write)) as sink, contextlib.closing(_source(here, vm, nic)) as source:
        with _told_of_its_end(here, vm):
            captured = _begin(source, sink, vm, nic, args.count or sys.maxsize, deadline)
        render.note(_summary(captured, source))
    return 0


@contextlib.contextmanager
def _told_of_its_end(here: Runtime, vm: VmRecord) -> Iterator[None]:
    """Say why a capture ends before its time, and leave nothing of it behind."""
    from qemunet.live.control import Lost

    try:
        yield
    except BrokenPipeError:
        render.note("whoever read the packets has left")
        raise
    except Lost:
        with contextlib.suppress(QemunetError):
            _adopt(here, vm.lab)  # a new keeper frees QEMU from what this capture left in it
        raise


def _adopt(here: Runtime, lab: str) -> None:
    """Have a keeper take care of the lab's guests; a dying one may still take a connection, but never answers."""
    from qemunet.live.control import Lost
    from qemunet.live.reach import reach

    deadline = time.monotonic() + _ADOPTION
    while time.monotonic() < deadline:
        with contextlib.suppress(Lost), reach(here, lab) as keeper:
            keeper.ask("ping")
            return
        select.select([], [], [], _GLANCE)


def _begin(source: Source, sink: Sink, vm: VmRecord, nic: NicRecord, most: int, deadline: float) -> int:
    from qemunet.host import pcap

    sink.begin(pcap.HEADER)
    where = f" ({nic.ifname})" if nic.ifname else ""
    render.note(f"capturing {nic.id} of {vm.name}{where}; ^C ends it")
    return _copy(source, sink, most, deadline)


def _copy(source: Source, sink: Sink, most: int, deadline: float) -> int:
    """Copy frames until it is enough; return how many it were."""
    from qemunet.cli.sink import interrupted

    captured = 0
    while not source.over:
        if captured >= most or time.monotonic() >= deadline or interrupted():
            source.stop()
        select.select([source], [], [], _GLANCE)
        records = source.read()[: most - captured]
        sink.write(b"".join(records))
        captured += len(records)
    return captured


def _summary(captured: int, source: Source) -> str:
    packets = "1 packet" if captured == 1 else f"{captured} packets"
    dropped = source.dropped()
    lost = "" if dropped is None else f", {dropped} dropped"
    return f"{packets} captured{lost}{'' if source.over == _STOPPED else f'; {source.over}'}"


def _source(here: Runtime, vm: VmRecord, nic: NicRecord) -> Source:
    """Return where the frames of a card are to be had: on the host, or else from QEMU by way of the keeper."""
    if nic.ifname is None:
        from qemunet.live.mirrored import Mirrored
        from qemunet.live.reach import reach

        return Mirrored(reach(here, vm.lab), vm.name, nic.id)
    from qemunet.host.packets import Packets

    place = _place(here, nic)
    if _counted(place, here, vm, nic.ifname) is None:
        raise NotFound(f"there is no interface {nic.ifname} of {vm.name}", hint="it may be in another namespace")
    return Packets(place, nic.ifname)


# ---------------------------------------------------------------- both


def _running(here: Runtime, name: str) -> VmRecord:
    """Return the vm of that name; raises NotFound if its QEMU is not there."""
    vm = vm_named(here, name)
    if vm.state == "dead":
        raise NotFound(f"{vm.name} is dead", hint="`qemunet gc` takes back what it left")
    return vm


def _place(here: Runtime, nic: NicRecord) -> Place:
    """Return where the host's side of a card is."""
    if nic.netns is None:
        from qemunet.host.netns import Place

        return Place()
    from qemunet.host import spaces

    return spaces.place(here.path, nic.netns)


def _counted(place: Place, here: Runtime, vm: VmRecord, ifname: str) -> Counters | None:
    """Return what was counted at an interface of the vm; None if there is none, and none of its namespace."""
    from qemunet.host import counters, netlink

    try:
        net = netlink.Netlink(place.inside(netlink.open_socket))
    except OSError:  # the vm has just ended, and its namespace with it
        return None
    with contextlib.closing(net):
        return counters.read(net, ifname, _group(here, vm))


def _group(here: Runtime, vm: VmRecord) -> int:
    """Return the link group of the vm's interfaces; a name alone may be somebody else's by now."""
    from qemunet.model.names import group

    return group(here.path, f"vm/{vm.name}")


COMMANDS: Commands = {
    "nic stats": (_stats_arguments, _stats),
    "nic capture": (_capture_arguments, _capture),
}
