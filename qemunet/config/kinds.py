"""Kinds of values: how each is written in TOML, what it becomes, and its JSON Schema."""

from __future__ import annotations

import re
from enum import StrEnum

from qemunet.config import ends, ready, scripts, units
from qemunet.config.hints import Bad, listed, nearest
from qemunet.config.spec import AUTO, NicMode
from qemunet.frozen import frozen
from qemunet.model import mac, names
from qemunet.model.nic import Rate
from qemunet.model.vm import GuestAgent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ALTIFNAMSIZ = 127  # bytes of an alternative interface name
_ADDRESS = r"^[0-9A-Fa-f.:]+(/\d+)?$"
_LONGEST_USER = 21  # two numbers of 32 bits and a colon
_MACHINE = r"[A-Za-z0-9][A-Za-z0-9._-]*(,.*)?"
MOST_MEMORY = 64 << 40  # what x86 can address with the usual 46 bits
MOST_DISK = (8 << 60) - 1  # what a signed offset reaches
_CONTROLS = frozenset(map(chr, (*range(32), *range(127, 160)))) - {"\t"}


@frozen
class Kind:
    """`read` turns a TOML value into ours or raises Bad; `key` is what the value belongs to, for the message."""

    read: Callable[[str, object], object]
    schema: dict[str, object]


def _type(value: object) -> str:
    names_of = {bool: "true or false", int: "a number", float: "a number with a fraction", str: "text", list: "a list"}
    return names_of.get(type(value), "a table" if isinstance(value, dict) else "a date or time")


def wrong(what: str, value: object, hint: str = "") -> Bad:
    """Return the error for a value of another type than it should be; `what` belongs in its place."""
    return Bad(f"{what} belongs here, not {_type(value)}", hint)


def string(key: str, value: object) -> str:
    """Take text without NUL, line breaks and what else drives a terminal; raises Bad."""
    if not isinstance(value, str):
        example = str(value).lower() if isinstance(value, bool | int | float) else ""
        raise wrong("text", value, f'put it in quotes: {key} = "{example}"' if example else "")
    if any(c in value for c in "\0\n\r"):
        raise Bad("a line break or NUL does not belong here")
    if not _CONTROLS.isdisjoint(value):
        raise Bad("a control character does not belong here")
    return value


def _typed(key: str, value: object) -> str:
    return value if isinstance(value, str) else string(key, value)


def of_text(convert: Callable[[str], object], **schema: object) -> Kind:
    """Return the kind of texts that `convert` turns into something or refuses."""
    return Kind(lambda key, value: convert(string(key, value)), {"type": "string", **schema})


def _filled(text: str) -> str:
    if not text:
        raise Bad("it is empty", "leave the line out for the default")
    return text


# ---------------------------------------------------------------- one value


def _bool(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        word = value.lower() if isinstance(value, str) else ""
        known = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
        raise wrong("true or false", value, f"write {key} = {known[word]}" if word in known else "")
    return value


def _int(key: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        plain = isinstance(value, str) and value.isdecimal()
        raise wrong("a whole number", value, f"without quotes: {key} = {value}" if plain else "")
    if not low <= value <= high:
        raise Bad(f"{value} is not between {low} and {high}")
    return value


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers from `low` to `high`."""
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Kind(lambda key, value: _int(key, value, low, high), schema)


def words(what: str, known: tuple[str, ...]) -> Kind:
    """Return the kind of some fixed words; `what` they are."""
    return of_text(lambda text: _word(what, text, known), enum=list(known))


def choice(enum: type[StrEnum], what: str = "", only: tuple[StrEnum, ...] = ()) -> Kind:
    """Return the kind of the values of an enumeration; `what` they are, if the key does not say it."""
    known = tuple(str(one) for one in only or enum)
    return Kind(
        lambda key, value: enum(_word(what or key, string(key, value), known)), {"type": "string", "enum": list(known)}
    )


# Words from elsewhere, and ours for them.
_SYNONYMS = {
    "slirp": "user",
    "macvlan": "macvtap",
    "host-only": "isolated",
    "hostonly": "isolated",
    "img": "raw",
    "hvm": "kvm",
    "qemu": "tcg",
    "efi": "uefi",
    "ovmf": "uefi",
    "passthrough": "passthru",
}
# Modes of networks that people give to cards, and how they get what they want.
_FOR_CARDS = {
    "bridge": 'a card on an existing bridge has bridge = "br0"',
    "private": 'a card joins a private network by network = "NAME"',
    "isolated": 'a card joins an isolated network by network = "NAME"',
}


def _word(what: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise Bad(f'unknown {what} "{text}"', _other_word(what, text, known))
    return text


def _other_word(what: str, text: str, known: tuple[str, ...]) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    every = f"{plural} are {listed(known)}" if len(known) > 1 else f"the only {what} is {known[0]}"
    meant = _SYNONYMS.get(text.lower()) or nearest(text, known)
    if meant in known:
        return f'did you mean "{meant}"? {every}'
    instead = _FOR_CARDS.get(nearest(text, _FOR_CARDS)) if NicMode.TAP in known else None
    return f"{instead}; {every}" if instead else every


def _name(text: str) -> str:
    if not names.is_name(text):
        raise Bad(f'"{text}" cannot be a name', "a letter, then up to 62 letters, digits and hyphens")
    return text


def _ifname(text: str) -> str:
    if len(text.encode()) > names.IFNAMSIZ:
        raise Bad(f'"{text}" is longer than the {names.IFNAMSIZ} bytes of an interface name')
    if not names.is_ifname(text):
        raise Bad(f'"{text}" cannot be the name of an interface', "no blanks, slashes, colons or percent signs")
    return text


def _link(text: str) -> str:
    """Take the name of an interface that is there: it may be an alternative one, which is longer."""
    if len(text.encode()) <= names.IFNAMSIZ:
        return _ifname(text)
    if len(text.encode()) > _ALTIFNAMSIZ or "/" in text or any(c.isspace() for c in text):
        raise Bad(f'"{text}" cannot be the name of an interface')
    return text


def _mac(text: str) -> str:
    return text if text == "auto" else plain_mac(text)


def plain_mac(text: str) -> str:
    """Return a MAC address in its usual form; raises Bad."""
    try:
        return mac.normalize(text)
    except ValueError as error:
        raise Bad(f'"{text}" is {error}') from None


def _mac_prefix(text: str) -> str:
    try:
        return mac.normalize_prefix(text)
    except ValueError as error:
        raise Bad(f'"{text}" is {error}') from None


def _memory(text: str) -> int:
    value = units.size(text)
    if value % (1 << 20):
        raise Bad(f'"{text}" is not a whole number of mebibytes')
    if not 1 << 20 <= value <= MOST_MEMORY:
        raise Bad(f'"{text}" is not between 1M and {units.format_size(MOST_MEMORY)}')
    return value


def _size(text: str) -> int:
    value = units.size(text)
    if not value:
        raise Bad(f'"{text}" is no size for a disk')
    if value > MOST_DISK:
        raise Bad(f'"{text}" is more than an image can have', "the most is just below 8388608T")
    return value


def _machine(text: str) -> str:
    if not re.fullmatch(_MACHINE, text):
        hint = 'as in "q35" or "pc,acpi=off"; `qemu-system-x86_64 -machine help` lists them'
        raise Bad(f'"{text}" cannot be a machine of QEMU', hint)
    return text


def _display(text: str) -> str:
    units.display(text)
    return text


def _ready(text: str) -> str:
    ready.read(text)
    return text


def _user(text: str) -> str:
    uid, colon, gid = text.partition(":")
    numbers = text.isascii() and len(text) <= _LONGEST_USER and uid.isdecimal() and (gid.isdecimal() or not colon)
    if numbers and max(int(uid), int(gid or 0)) < 2**32 - 1:
        return text
    if not text or colon or text[0].isdecimal():
        raise Bad(f'"{text}" is not a user', '"auto", a name, or numbers as in "1000:1000"')
    return text


def _ip4(text: str) -> str:
    if ":" in text:
        raise Bad(f'"{text}" is an IPv6 address; QEMU\'s user mode takes an IPv4 one here')
    return units.ip(text)


def _slirp_subnet(text: str) -> str:
    cidr = units.subnet(text)
    if ":" in cidr or not 4 <= int(cidr.partition("/")[2]) <= 28:
        raise Bad(f'"{text}" is not an IPv4 network of /4 to /28, as QEMU\'s user mode wants', 'as in "10.0.2.0/24"')
    return cidr


def hostname(text: str) -> str:
    """Take the name of a host, or of a domain; raises Bad."""
    labels = text.split(".")
    if len(text) > 253 or not all(_is_label(label) for label in labels):
        raise Bad(f'"{text}" cannot be a host name', "letters, digits and hyphens, not at the ends")
    return text


def _is_label(label: str) -> bool:
    plain = label.replace("-", "a")
    return 0 < len(label) < 64 and plain.isascii() and plain.isalnum() and label[0] != "-" != label[-1]


def _seconds(key: str, value: object) -> int:
    if value == 0 and not isinstance(value, bool):
        return 0
    if isinstance(value, int) and not isinstance(value, bool):
        raise Bad(f"{value} is a time without a unit", f'write {key} = "{value}s"')
    return units.seconds(string(key, value))


def _sized(convert: Callable[[str], int]) -> Kind:
    def read(key: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            raise Bad(f"{value} is a size without a unit", f'write {key} = "{value}M"')
        return convert(string(key, value))

    return Kind(read, {"type": "string", "pattern": r"^\d+(\.\d+)?[KMGT](iB)?$"})


_RATE_DOCS = {"in": "the most that reaches the guest", "out": "the most that it sends"}
_RATE_WAYS = {"in": "inbound", "out": "outbound"}
_RATE_EXAMPLE = 'as in rate = { in = "100mbit", out = "20mbit" }'


def _rate(key: str, value: object) -> Rate:
    if not isinstance(value, dict):
        same = isinstance(value, str) and value.isalnum()
        raise wrong("a table", value, f'write {key} = {{ in = "{value}", out = "{value}" }}' if same else _RATE_EXAMPLE)
    if not value:
        raise Bad("it says nothing", _RATE_EXAMPLE)
    for way, one in value.items():
        if way not in _RATE_WAYS:
            raise Bad(f'unknown key "{way}"', "in is what reaches the guest, out what it sends")
        if isinstance(one, int | float) and not isinstance(one, bool):
            raise Bad(f"{way} is a rate without a unit", _RATE_EXAMPLE)
    return Rate(**{_RATE_WAYS[way]: units.rate(string(way, one)) for way, one in value.items()})


def _agent(key: str, value: object) -> GuestAgent:
    if isinstance(value, bool):
        return GuestAgent.OURS if value else GuestAgent.NONE
    if value != GuestAgent.QEMU:
        word = value.lower() if isinstance(value, str) else ""
        meant = {"true": "true", "false": "false", "qemunet": "true", "none": "false"}.get(word)
        meant = '"qemu"' if word in {"qemu", "qga", "qemu-ga", "qemu-guest-agent"} else meant
        raise wrong('true, false or "qemu"', value, f"write {key} = {meant}" if meant else "")
    return GuestAgent.QEMU


def _queues(key: str, value: object) -> int:
    return AUTO if value == "auto" else _int(key, value, 1, 256)


# ---------------------------------------------------------------- lists


def several(convert: Callable[[str], object], what: str, *, alone: bool = True, **schema: object) -> Kind:
    """Return the kind of a list; `alone`: one of its members may stand without brackets."""

    def read(key: str, value: object) -> tuple[object, ...]:
        if alone and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise wrong(f"{what} or a list of such" if alone else "a list", value, f'as in {key} = ["…"]')
        found = tuple(convert(string(key, one)) for one in value)
        twice = next((one for i, one in enumerate(value) if found[i] in found[:i]), None)
        if twice is not None and alone:
            raise Bad(f'"{twice}" is there twice')
        return found

    one: dict[str, object] = {"type": "string", **schema}
    many: dict[str, object] = {"type": "array", "items": one}
    return Kind(read, {"anyOf": [one, many]} if alone else many)


def _order(text: str) -> str:
    return _word("source", text, ("disk", "network", "cdrom"))


TEXTS = several(lambda text: text, "text", alone=False)
BOOL = Kind(_bool, {"type": "boolean"})
TEXT = of_text(lambda text: text)
MACHINE = of_text(_machine, pattern=f"^{_MACHINE}$")
TYPED = Kind(_typed, {"type": "string"})  # control characters are keys
REGEX = of_text(scripts.pattern, minLength=1)
NAMES = several(_name, "a name", pattern=f"^{names.NAME.pattern}$")
PATH = of_text(_filled)
PATHS = several(_filled, "a path")
NAME = of_text(_name, pattern=f"^{names.NAME.pattern}$")
IFNAME = of_text(_ifname, minLength=1, maxLength=names.IFNAMSIZ)
LINK = of_text(_link, minLength=1, maxLength=_ALTIFNAMSIZ)
MAC = of_text(_mac, pattern="^(auto|([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2})$")
MAC_PREFIX = of_text(_mac_prefix, pattern="^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){0,4}$")
MEMORY = _sized(_memory)
SIZE = _sized(_size)
SECONDS = Kind(_seconds, {"anyOf": [{"const": 0}, {"type": "string", "pattern": r"^\d+(s|m|min|h)$"}]})
DISPLAY = of_text(_display, pattern="^(none|gtk|vnc=.*:[0-9]+)$")
READY = of_text(_ready, pattern="^(dhcp|console=.+|tcp=[0-9]+|script)$")
USER = of_text(_user, minLength=1)
MTU = whole(68, 65535)
AGENT = Kind(_agent, {"anyOf": [{"type": "boolean"}, {"const": str(GuestAgent.QEMU)}]})
QUEUES = Kind(_queues, {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 256}]})
_ONE_RATE = {"type": "string", "pattern": r"^\d+(\.\d+)?([kmgt]i?)?(bit|bps)$"}
RATE = Kind(
    _rate,
    {
        "type": "object",
        "properties": {way: {"description": doc, **_ONE_RATE} for way, doc in _RATE_DOCS.items()},
        "minProperties": 1,
        "additionalProperties": False,
    },
)
IPS = several(units.ip, "an address", pattern=_ADDRESS)
IP4 = of_text(_ip4, format="ipv4")
INTERFACES = several(units.interface, "an address with its prefix length", pattern=_ADDRESS)
SUBNETS = several(units.subnet, "a network", pattern=_ADDRESS)
SLIRP_SUBNET = of_text(_slirp_subnet, pattern=_ADDRESS)
HOSTNAME = of_text(hostname)
FORWARDS = several(units.forward, "a forward", pattern="^(tcp|udp):")
END = of_text(ends.address, pattern=r"^(unix:.+|.*:\d+)$")
DEVICE = of_text(ends.device, pattern=r"^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]$")
GROUP = of_text(ends.group, pattern=r"^\d+\.\d+\.\d+\.\d+:\d+$")
ORDER = several(_order, "a source", enum=["disk", "network", "cdrom"])
