"""``nic add``, ``nic del`` and ``nic set``: plugs, unplugs and changes the cards of a guest while it runs."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json, number, seconds, vlans
from qemunet.errors import NotFound, QemunetError, UsageError
from qemunet.shapes import keys_of, unseen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.config.save import Value
    from qemunet.live.control import Message
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

    Keys = dict[str, Any]  # what a [[vm.NAME.nic]] may have, checked by whoever reads it
    Edit = Callable[[str], str]

EMPTY = '""'  # a name that is not there, as one sees it
_ADD, _DEL = 10.0, 30.0  # seconds
_HEADER = ("NIC", "GUEST", "MAC", "HOST", "SLOT")

_TEXTS = {
    "network": ("NETWORK", "plug it into this network, of the lab or one that is up"),
    "bridge": ("IFNAME", "plug it into this existing bridge"),
    "mode": ("MODE", "what is behind it: user, tap, macvtap, stream, dgram, mcast, vde, passt, vhost-user or hostdev"),
    "parent": ("IFNAME", "mode macvtap: the interface below"),
    "macvtap": ("MODE", "bridge, vepa, private or passthru"),
    "listen": ("ADDR:PORT", "mode stream: where the other end finds it; mode dgram: its own address"),
    "connect": ("ADDR:PORT", "modes stream and dgram: the other end"),
    "group": ("ADDR:PORT", "mode mcast: the multicast group"),
    "local": ("ADDR", "mode mcast: an address of the interface by which the group is reached"),
    "path": ("PATH", "mode vde: the directory of the vde_switch; mode vhost-user: the socket of the backend"),
    "device": ("ADDRESS", "mode hostdev: the PCI device of the host, as in 0000:03:00.1"),
    "mac": ("MAC", "its address (default: one that stays the same)"),
    "link": ("up|down", "whether its cable is plugged in"),
    "guard": ("LEVEL", "what its guest may not send: off, mac, clean or strict"),
    "port-profile": ("NAME", "have the values of this port profile of its network; none: of none"),
    "vhost": ("on|off|auto", "let the kernel carry its packets"),
    "ifup": ("PROGRAM", "run when its host side is ready"),
    "ifdown": ("PROGRAM", "run before its host side goes"),
    "subnet": ("CIDR", "mode user: the network that the guest sees"),
    "hostname": ("NAME", "mode user: what DHCP calls the guest"),
    "dns": ("ADDRESS", "mode user: the name server that the guest sees"),
    "tftp": ("DIR", "mode user: what TFTP serves"),
    "bootfile": ("NAME", "mode user: what DHCP names for booting"),
}
_LISTS = {
    "ip": ("CIDR", "an address that the guest uses"),
    "gateway": ("ADDRESS", "its way out"),
    "forward": ("RULE", "mode user: tcp:ADDR:PORT:GUESTPORT"),
    "address": ("CIDR", "a point-to-point card: the host's address"),
    "routes": ("CIDR", "a point-to-point card: what is behind the guest"),
}
_TELLING = ("address", "routes")  # with one of them, an empty one even, a card is a cable to the host
_NUMBERS = {
    "mtu": "the largest packet",
    "acpi-index": "firmware's number of it, by which guests name it",
    "boot-index": "its place in the boot order of the next reset",
}
_IMPAIR = "what a bad network does, each way: delay=20ms,jitter=5ms,loss=1%%,duplicate=1%%; none: nothing"
_VLAN = "the VLANs that it is in: 10, or trunk=10,20-29,native=1; none: as every new port of its bridge"
_ISOLATION = "on: cards of its bridge that have it, too, do not reach each other"
_OWN_WAY = ("id", "queues", "rate", "impair", "vlan", "host-macvlan", "restrict")
_ONLY_NEW = {
    "model": ("MODEL", "virtio, e1000, e1000e, rtl8139, vmxnet3 … (default: the profile's)"),
    "mac-prefix": ("PREFIX", "the beginning of a generated address"),
    "ifname": ("IFNAME", "the name of its host side"),
}


# ---------------------------------------------------------------- command lines


def _card_arguments(parser: Parser) -> None:
    for name, (what, text) in _TEXTS.items():
        parser.add_argument(f"--{name}", metavar=what, help=text)
    for name, (what, text) in _LISTS.items():
        parser.add_argument(
            f"--{name}", metavar=what, action="append", help=f"{text}; may be repeated; none: no {name}"
        )
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name}", metavar="N", type=number, help=text)
    parser.add_argument("--queues", metavar="N|auto", help="queue pairs of a virtio card")
    parser.add_argument("--rate", metavar="in=RATE,out=RATE", help="limits, as the guest sees it; none: no limit")
    parser.add_argument("--impair", metavar="delay=TIME,loss=SHARE,…", help=_IMPAIR)
    parser.add_argument("--vlan", metavar="VLAN", type=vlans, help=_VLAN)
    parser.add_argument("--port-isolation", metavar="on|off", choices=("on", "off"), help=_ISOLATION)
    parser.add_argument("--host-macvlan", action="store_true", default=None, help="let the host talk to a macvtap")
    parser.add_argument("--adopt", action="store_true", default=None, help="use the tap --ifname that is there")
    parser.add_argument("--restrict", action="store_true", default=None, help="mode user: no way out")


def _common_arguments(parser: Parser, timeout: float, what: str) -> None:
    parser.add_argument(
        "--timeout", metavar="TIME", type=seconds, default=timeout, help=f"how long {what} (default {timeout:g}s)"
    )
    parser.add_argument("--save", action="store_true", help="write the change into the lab file, too")
    parser.add_argument("--file", metavar="FILE", help="the lab file of a vm that does not run, for --save")
    add_json(parser)


def _add_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("--id", metavar="ID", help="what to call it (default: the next free of net0, net1 …)")
    _card_arguments(parser)
    for name, (what, text) in _ONLY_NEW.items():
        parser.add_argument(f"--{name}", metavar=what, help=text)
    _common_arguments(parser, _ADD, "the guest may take to use it")


def _del_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("nic", metavar="NIC", help="its id, its MAC address, or a network that no other card is on")
    parser.add_argument("--cut", action="store_true", help="stop its traffic at once")
    _common_arguments(parser, _DEL, "the guest may take to let go of it")


def _set_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("nic", metavar="NIC", help="its id, its MAC address, or a network that no other card is on")
    _card_arguments(parser)
    parser.add_argument("--model", metavar="MODEL", help="another model, which has to be unplugged and plugged in")
    parser.add_argument("--no-forward", action="store_true", help="the same as --forward none")
    _common_arguments(parser, _DEL, "the guest may take if it has to be replugged")


def _keys(args: Namespace) -> Keys:
    """Return what the options say, by the keys of a ``[[vm.NAME.nic]]``."""
    names = (
        *_TEXTS,
        *_LISTS,
        *_NUMBERS,
        *_ONLY_NEW,
        "id",
        "queues",
        "rate",
        "impair",
        "vlan",
        "host-macvlan",
        "adopt",
        "restrict",
    )
    found = {name: getattr(args, name.replace("-", "_"), None) for name in names}
    keys: Keys = {name: one for name, one in found.items() if one is not None}
    keys |= {name: _list(name, keys[name]) for name in _LISTS if name in keys}
    if args.port_isolation is not None:
        keys["port-isolation"] = args.port_isolation == "on"
    if "queues" in keys and args.queues.isdecimal() and len(args.queues) < 10:
        keys["queues"] = int(args.queues)
    if keys.get("port-profile") == "none":
        keys["port-profile"] = {}
    if "rate" in keys:
        keys["rate"] = _rate(args.rate)
    if "impair" in keys:
        keys["impair"] = _impair(args.impair)
    if getattr(args, "no_forward", False):
        keys["forward"] = []
    return keys_of(keys)


def _list(name: str, given: list[str]) -> list[str]:
    """Return what an option says that may be repeated: the word none, or nothing, is the empty list."""
    if given in (["none"], [""]):
        return []
    if "none" in given:
        raise UsageError(f"--{name}: none stands alone", hint=f"as in --{name} none, or leave it out")
    return given


def _rate(text: str) -> dict[str, str]:
    """Return ``in=10mbit,out=5mbit`` as the table of a file; none is an empty one."""
    if text == "none":
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    wrong = [name for name, equals, _ in pairs if name not in ("in", "out") or not equals]
    if wrong:
        raise UsageError(f'--rate: "{text}" is not a rate', hint="as in --rate in=100mbit,out=20mbit, or none")
    return {name: value for name, _, value in pairs}


def _impair(text: str) -> dict[str, str]:
    """Return ``delay=20ms,loss=1%`` as the table of a file, for others to check; none is an empty one."""
    if text == "none":
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals for name, equals, _ in pairs):
        raise UsageError(f'--impair: "{text}" is no impairment', hint="as in --impair delay=20ms,loss=1%, or none")
    return {name: value for name, _, value in pairs}


# ---------------------------------------------------------------- what they do


def _add(args: Namespace) -> int:
    from qemunet.config import save

    keys = _keys(args)
    here, record = runtime(), _record(args)
    if record is None:
        return _only_save(args, lambda text: save.add_nic(text, args.vm, _written(keys), file=args.file))
    _try(args, record, lambda text: save.add_nic(text, args.vm, _written(keys), file=record.file))
    reply = _ask(here, record, "nic-add", args.timeout, keys=keys)
    named = {**_written(keys), "id": _row(reply)["id"]}
    _save(args, record, lambda text: save.add_nic(text, args.vm, named, file=record.file))
    return _told(here, args, reply)


def _del(args: Namespace) -> int:
    from qemunet.config import save
    from qemunet.live.record import pick

    here, record = runtime(), _record(args)
    if record is None:
        return _only_save(args, lambda text: save.remove_nic(text, args.vm, args.nic, file=args.file))
    nic = pick(record.nics, args.vm, args.nic).id
    _try(args, record, lambda text: save.remove_nic(text, args.vm, nic, file=record.file))
    row = _row(_ask(here, record, "nic-del", args.timeout, nic=nic, cut=args.cut))
    _save(args, record, lambda text: save.remove_nic(text, args.vm, nic, file=record.file))
    if args.json:
        render.as_json({"id": row["id"], "mac": row["mac"], "state": "unplugged"})
    else:
        render.note(f"{args.vm}: {row['id']} ({row['mac'] or row['device']}) is unplugged")
    return 0


def _set(args: Namespace) -> int:
    from qemunet.live.record import pick

    keys = _keys(args)
    if not keys:
        raise UsageError("nothing to change was given", hint="`qemunet nic set --help` lists what can be")
    here, record = runtime(), _record(args)
    if record is None:
        return _only_save(args, lambda text: _set_in(text, args.vm, args.nic, keys, args.file))
    nic = pick(record.nics, args.vm, args.nic).id
    _try(args, record, lambda text: _set_in(text, args.vm, nic, keys, record.file))
    reply = _ask(here, record, "nic-set", args.timeout, nic=nic, keys=keys)
    _save(args, record, lambda text: _set_in(text, args.vm, nic, keys, record.file))
    return _told(here, args, reply)


def _record(args: Namespace) -> VmRecord | None:
    """Return the vm that runs; None if it does not, and only its file is to be changed. Raises NotFound, UsageError."""
    record = runtime().scope(f"vm/{args.vm}").record()
    if record is not None and record.state == "running":
        if args.file:
            raise UsageError(f"{args.vm} runs, and its file is {record.file}", hint="leave out --file")
        return record
    if args.save and args.file:
        return None
    hint = f"--save --file FILE changes the lab file alone; `qemunet run FILE {args.vm or EMPTY}` starts it"
    raise NotFound("it does not run", where=f"vm.{args.vm or EMPTY}", hint=hint)


def _ask(here: Runtime, record: VmRecord, verb: str, timeout: float, **arguments: object) -> dict[str, object]:
    from qemunet.cli import cutoff
    from qemunet.live.reach import reach

    see = f"`qemunet nic list {record.name}` shows the cards there are"
    with reach(here, record.lab) as keeper:
        if verb == "nic-del":
            stands = f"{arguments['nic']} leaves as soon as the guest lets go of it"
            return cutoff.ask_for_good(keeper, verb, see, stands, vm=record.name, timeout=timeout, **arguments)
        return cutoff.ask(keeper, verb, see, vm=record.name, timeout=timeout, **arguments)


def _row(reply: Message) -> dict[str, str]:
    row = reply["nic"]
    assert isinstance(row, dict), "the keeper describes the card"
    return row


def _told(here: Runtime, args: Namespace, reply: Message) -> int:
    """Print the card, and say what is not known of it; raises TimedOut if a guest that runs has not taken it."""
    from qemunet.cli.look import nic_json
    from qemunet.records import NicRecord

    row, record = _row(reply), here.vm(args.vm)
    card, name = NicRecord.from_dict(row), reply.get("guest_ifname")
    if args.json:
        render.as_json(nic_json(record, card) | {"guest_ifname": name})
    else:
        called = str(name) if name else None
        render.table(_HEADER, [(row["id"], called, row["mac"] or None, row["ifname"] or row["device"], row["slot"])])
    if row["model"] == "e1000e" and _pulls_the_cable(args):
        render.note("note: guests do not see the cable of an e1000e: only its traffic was cut, or has come back")
    match reply["presence"]:
        case "paused":
            render.note(f"note: {args.vm} is paused; it finds {row['id']} when it runs on")
        case "not-booted":
            render.note(f"note: {args.vm} has not booted yet, as far as one can see; its kernel finds {row['id']}")
        case "unseen":
            raise unseen(record.name, card, args.timeout)
    return 0


def _pulls_the_cable(args: Namespace) -> bool:
    return any((args.link, args.network, args.bridge)) and not hasattr(args, "id")


# ---------------------------------------------------------------- the lab file


def _written(keys: Keys) -> dict[str, Value]:
    """Return keys for a file; a list that is empty is better left out, but for one that says what a card is."""
    return {key: one for key, one in keys.items() if one not in ([], {}) or key in _TELLING}


def _emptied(keys: Keys) -> list[str]:
    return [key for key in keys if key not in _written(keys)]


def _set_in(text: str, vm: str, nic: str, keys: Keys, file: str) -> str:
    """Return a lab file with other keys of a card, and without those that are of no use any more."""
    from qemunet.config import edit, save

    gone = edit.removed_keys(text, vm, nic, keys, file)
    return save.set_nic(text, vm, nic, {**dict.fromkeys((*gone, *_emptied(keys))), **_written(keys)}, file=file)


def _only_save(args: Namespace, edit: Edit) -> int:
    from qemunet.host.saving import save

    save(args.file, None, edit)
    render.note(f"{args.vm} does not run; {args.file} is changed")
    return 0


def _try(args: Namespace, record: VmRecord, edit: Edit) -> None:
    """See that the file can be changed, before anything else is."""
    if args.save:
        from qemunet.host.saving import check

        check(record.file, edit)


def _save(args: Namespace, record: VmRecord, edit: Edit) -> None:
    """Change the file, too; an error tells that the vm was changed."""
    if args.save:
        from qemunet.host.saving import save

        try:
            save(record.file, None, edit)
        except QemunetError as error:
            error.hint = f"only the file is as it was, {args.vm} was changed: `qemunet status {args.vm}` compares them"
            raise


COMMANDS: Commands = {
    "nic add": (_add_arguments, _add),
    "nic del": (_del_arguments, _del),
    "nic set": (_set_arguments, _set),
}
