"""``mac``, ``profiles``, ``schema``, ``guest build`` and ``guest agent``: what helps to write and to try a lab."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.parser import add_json, count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Collection

    from qemunet.cli.parser import Commands, Parser


def _mac_arguments(parser: Parser) -> None:
    parser.add_argument("-n", metavar="N", type=count, default=1, dest="count", help="how many (default 1)")
    parser.add_argument(
        "--prefix", metavar="P", default=None, help="first one to five octets (default 52:54:00, QEMU's own)"
    )
    add_json(parser)


def _mac(args: Namespace) -> int:
    from qemunet.errors import UsageError
    from qemunet.model import mac
    from qemunet.state import Runtime, locate

    try:
        prefix = mac.normalize_prefix(mac.DEFAULT_PREFIX if args.prefix is None else args.prefix)
    except ValueError as error:
        raise UsageError(f'--prefix "{args.prefix}": {error}') from None
    try:
        taken = {key.removeprefix("mac/") for key in Runtime(locate()).claims()}
    except PermissionError:
        taken = set()  # somebody else's world
    found = random_macs(args.count, prefix, taken)
    if args.json:
        render.as_json(found)
    else:
        render.out("\n".join(found))
    return 0


def random_macs(wanted: int, prefix: str, taken: Collection[str]) -> list[str]:
    """Return that many different addresses below a prefix, none of them taken; raises UsageError."""
    from qemunet.errors import UsageError

    found: dict[str, None] = {}
    used = {"00:00:00:00:00:00", *taken}
    while len(found) < wanted:
        address = _free_mac(prefix, used)
        if address is None:
            raise UsageError(
                f"there are not {wanted} free addresses below {prefix}",
                hint="a shorter --prefix leaves room for more",
            )
        found[address] = None
        used.add(address)
    return list(found)


def _free_mac(prefix: str, used: Collection[str]) -> str | None:
    """Return the first free address at or after a random one, None if there is none."""
    octets = 6 - len(prefix.split(":"))
    room = 256**octets
    start = int.from_bytes(os.urandom(octets), "big")
    for number in range(start, start + min(room, len(used) + 1)):
        address = f"{prefix}:{(number % room).to_bytes(octets, 'big').hex(':')}"
        if address not in used:
            return address
    return None


# ---------------------------------------------------------------- profiles, schema, guests


def _profiles(args: Namespace) -> int:
    from qemunet.config import profiles

    found = profiles.available(os.getcwd())
    if args.json:
        render.as_json([{"name": one.name, "machine": one.machine.type, "doc": one.doc} for one in found])
    else:
        render.table(("NAME", "MACHINE", "WHAT"), [(one.name, one.machine.type, one.doc) for one in found])
    return 0


def _schema_arguments(parser: Parser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as without it: a schema is JSON")
    form.add_argument("--markdown", action="store_true", help="print the reference of all keys, for people, instead")


def _schema(args: Namespace) -> int:
    if args.markdown:
        from qemunet.config.schema import markdown

        render.out(markdown().rstrip("\n"))
        return 0
    from qemunet.config.keys import json_schema

    render.as_json(json_schema())
    return 0


def _guest_build(args: Namespace) -> int:
    from qemunet.guest import image

    built = image.build(render.note)
    if args.json:
        render.as_json({"kernel": built.kernel, "initrd": built.initrd, "append": built.append})
    else:
        render.out(f"{built.kernel}\n{built.initrd}")
    return 0


def _guest_agent(_: Namespace) -> int:
    from qemunet.guest import image

    print(image.agent(), end="")
    return 0


COMMANDS: Commands = {
    "mac": (_mac_arguments, _mac),
    "profiles": (add_json, _profiles),
    "schema": (_schema_arguments, _schema),
    "guest build": (add_json, _guest_build),
    "guest agent": (lambda parser: None, _guest_agent),
}
