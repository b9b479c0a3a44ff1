"""``ps``, ``status`` and ``nic list``: shows which guests run, and their cards."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.known import runtime, vm_named, vm_or_lab
from qemunet.cli.parser import add_json
from qemunet.errors import NotFound
from qemunet.model import vlan
from qemunet.records import NicRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.records import VmRecord

    Message = dict[str, Any]  # of the keeper

_ROOTS = "/run/qemunet"
_VM_HEADER = ("NAME", "LAB", "STATE", "PID", "ACCEL", "MACHINE", "NICS")
_NIC_HEADER = ("NIC", "GUEST", "MAC", "HOST", "MODE", "NETWORK", "BRIDGE", "IP", "GUARD", "LINK", "STATE")
_VLAN = ("VLAN",)  # where a card is in any


# ---------------------------------------------------------------- ps


def _ps_arguments(parser: Parser) -> None:
    add_json(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names alone")


def _ps(args: Namespace) -> int:
    records = runtime().vms()
    if args.json:
        render.as_json([vm_json(record) for record in records])
    elif args.quiet:
        for record in records:
            render.out(record.name)
    else:
        render.table(_VM_HEADER, [_vm_row(record) for record in records])
        _tell_of_roots()
    return 0


def _vm_row(vm: VmRecord) -> tuple[str | None, ...]:
    return (vm.name, vm.lab, vm.state, _text(vm.pid), vm.accel, vm.machine, str(len(vm.nics)))


def _tell_of_roots() -> None:
    """A user has a world of his own; if root has one too, that is what he may be looking for."""
    if os.geteuid() == 0 or os.environ.get("QEMUNET_RUNTIME_DIR"):
        return
    if os.path.isdir(_ROOTS) and not os.access(_ROOTS, os.R_OK):
        render.note("note: root has vms of its own, which you may not see: `sudo qemunet ps`")


# ---------------------------------------------------------------- status, nic list


def _status_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="a vm or a lab")
    add_json(parser)


def _status(args: Namespace) -> int:
    records = vm_or_lab(runtime(), args.name)
    if args.json:
        shapes = [_vm_json_seen(record) for record in records]
        render.as_json(shapes[0] if records[0].name == args.name else shapes)
        return 0
    for record in records:
        pid = f", pid {record.pid}" if record.pid else ""
        seen = _seen(record, compare=True)
        state = _state(record, seen)
        render.out(f"{record.name}: {state}{pid}, {record.machine} ({record.accel}), lab {record.lab}")
        _print_nics(record, seen)
        _print_old_addresses(record)
        _print_script(record)
        _print_differences(record, seen)
    return 0


def _nic_list_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    add_json(parser)


def _nic_list(args: Namespace) -> int:
    record = vm_named(runtime(), args.vm)
    seen = _seen(record)
    if args.json:
        render.as_json(_nics_json(record, seen))
    else:
        _print_nics(record, seen)
    return 0


def _seen(vm: VmRecord, *, compare: bool = False) -> Message:
    """Return what the keeper of a vm that runs says of its cards; nothing of one that does not run."""
    from qemunet.live.reach import learn

    if vm.state != "running":
        return {}
    try:
        return learn(runtime(), vm.lab, "nics", vm=vm.name, compare=compare)
    except NotFound:  # it has just ended
        return {}


def _state(vm: VmRecord, seen: Message) -> str:
    """Return how a vm is: one that runs may stand still, which only its keeper knows."""
    return "paused" if seen.get("state") in ("paused", "prelaunch") else vm.state


def _nics_json(vm: VmRecord, seen: Message) -> list[dict[str, Any]]:
    rows = [NicRecord.from_dict(row) for row in seen.get("nics", ())] or vm.nics
    cards = [nic_json(vm, nic) for nic in rows] + [_foreign_json(card) for card in seen.get("foreign", ())]
    return [card | seen.get("known", {}).get(card["mac"], {}) | _dropped(card, seen) for card in cards]


def _dropped(card: dict[str, Any], seen: Message) -> dict[str, Any]:
    return {"dropped": seen.get("dropped", {}).get(card["id"], {})}


def _vm_json_seen(vm: VmRecord) -> dict[str, Any]:
    seen = _seen(vm, compare=True)
    return {**vm_json(vm), "state": _state(vm, seen), "nics": _nics_json(vm, seen), "differs": seen.get("differs")}


def _foreign_json(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card that somebody else has plugged in, in the shape of one of ours."""
    nothing = dict.fromkeys(
        (
            "mode",
            "ifname",
            "host_mac",
            "network",
            "bridge",
            "netns",
            "device",
            "link",
            "port_isolation",
            "vlan",
            "guard",
            "guest_ifname",
        )
    )
    return {"id": card["id"] or None, **nothing, **card, "ip": [], "dropped": {}, "state": "foreign"}


def _print_nics(vm: VmRecord, seen: Message) -> None:
    rows = _nics_json(vm, seen)
    if not rows:
        render.out("no card")
        return
    some = any(row["vlan"] for row in rows)
    render.table((*_NIC_HEADER, *_VLAN[:some]), [(*_nic_row(row), *[_vlan(row)][:some]) for row in rows])


def _print_script(vm: VmRecord) -> None:
    """Say how far the script of a vm has come, if it has one."""
    from qemunet.live import script

    found = script.read(runtime().scope(f"vm/{vm.name}").directory)
    if found is not None:
        render.out(f"script: {found.describe()}")


def _print_old_addresses(vm: VmRecord) -> None:
    """Say which addresses the networks of a vm had before and still have."""
    here = runtime()
    for name in dict.fromkeys(nic.network for nic in vm.nics if nic.network):
        for address, until in here.scope(f"net/{name}").leaving().items():
            from qemunet.cli.nets import old_address

            render.out(f"network {name} still has its old address {old_address({'address': address, 'until': until})}")


def _print_differences(vm: VmRecord, seen: Message) -> None:
    if seen.get("problem"):
        render.note(f"note: it cannot be compared with its file: {seen['problem']}")
    elif seen.get("differs"):
        render.out(f"{vm.file} differs; `qemunet apply` would:")
        for one in seen["differs"]:
            render.out(f"  {one}")


def _nic_row(nic: dict[str, Any]) -> tuple[str | None, ...]:
    ips = ", ".join(ip["address"] for ip in nic["ip"])
    return (
        nic["id"],
        nic["guest_ifname"],
        nic["mac"],
        render.placed(nic["netns"], nic["ifname"] or nic["device"]),
        nic["mode"],
        nic["network"],
        render.placed(nic["netns"], nic["bridge"]),
        ips,
        _guard_text(nic),
        nic["link"],
        nic["state"],
    )


def _vlan(row: dict[str, Any]) -> str | None:
    """Return a card's VLANs: ``10``, or ``10t 20-29t 1``, where a t is for a tag."""
    known = row["vlan"] or {}
    alone = known.get("access", known.get("native"))
    return " ".join((*(f"{one}t" for one in known.get("trunk", ())), *([str(alone)] if alone else []))) or None


def _guard_text(nic: dict[str, Any]) -> str | None:
    """Return a card's guard with what it has dropped: ``clean (ip 3)``."""
    counted = ", ".join(f"{kind} {number}" for kind, number in nic["dropped"].items() if number)
    level = None if nic["guard"] == "off" else nic["guard"]
    return f"{level} ({counted})" if counted else level


def vm_json(vm: VmRecord) -> dict[str, Any]:
    """Return a vm as `ps` and `status` print it."""
    return {
        "name": vm.name,
        "lab": vm.lab,
        "file": vm.file,
        "state": vm.state,
        "pid": vm.pid,
        "accel": vm.accel,
        "machine": vm.machine,
        "nics": [nic_json(vm, nic) for nic in vm.nics],
    }


def nic_json(vm: VmRecord, nic: NicRecord) -> dict[str, Any]:
    """Return a card as `nic list` prints it, as far as its record tells: not what the guest says of it."""
    return {
        "id": nic.id,
        "mode": nic.mode,
        "model": nic.model,
        "mac": nic.mac or None,
        "ifname": nic.ifname,
        "host_mac": nic.host_mac,
        "network": nic.network,
        "bridge": nic.bridge,
        "netns": nic.netns,
        "device": nic.device,
        "link": nic.link,
        "port_isolation": nic.port_isolation,
        "vlan": None if nic.vlan is None else vlan.table(vlan.parse(nic.vlan)),
        "guard": nic.guard,
        "dropped": {},
        "ip": [{"address": ip, "source": "file"} for ip in nic.ips],
        "guest_ifname": None,
        "slot": nic.slot,
        "state": nic.state if vm.state == "running" else vm.state,
    }


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


COMMANDS: Commands = {
    "ps": (_ps_arguments, _ps),
    "status": (_status_arguments, _status),
    "nic list": (_nic_list_arguments, _nic_list),
}
