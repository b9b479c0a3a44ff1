"""Kinds of values that only managed networks have: ranges, services, options, names."""

from __future__ import annotations

import re

from qemunet.config import kinds, units
from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.config.kinds import Kind, of_text, several, string, wrong
from qemunet.model.network import Boot

_OPTION = r"(?a)[0-9]{1,3}|[a-z][a-z0-9-]*"
_SERVICE = r"(?a)(tcp|udp):(\d{1,5})"
SERVICES = ("dhcp", "dns", "icmp", "all")
_BOOT_KEYS = ("file", "server", "tftp")
_BOOT_EXAMPLE = 'as in boot = { file = "pxelinux.0", tftp = "dir" }'


def _address(text: str) -> str:
    return text if text == "auto" else units.interface(text)


def _port(text: str) -> str:
    return str(kinds.LINK.read("ports", text))


def _service(text: str) -> str:
    match = re.fullmatch(_SERVICE, text)
    if match is not None and 0 < int(match[2]) <= units.MAX_PORT:
        return f"{match[1]}:{int(match[2])}"
    if text not in SERVICES:
        every = 'services are dhcp, dns, icmp and all, or a port as in "tcp:3128"'
        raise Bad(f'unknown service "{text}"', did_you_mean(text, SERVICES, every))
    return text


def _range(key: str, value: object) -> tuple[str, ...]:
    example = f'the first and the last, as in {key} = ["192.168.50.100", "192.168.50.200"]'
    if not isinstance(value, list):
        raise wrong("a list of two addresses", value, example)
    if len(value) not in (2, 4):
        raise Bad("a range has two addresses, and with one for IPv6 as well four", example)
    found = tuple(units.ip(string(key, one)) for one in value)
    for first, last in zip(found[::2], found[1::2], strict=True):
        if units.bits(first) != units.bits(last):
            raise Bad(
                f"{first} and {last} are no range", "an IPv4 range has two IPv4 addresses, an IPv6 one two of IPv6"
            )
        if units.number(first) > units.number(last):
            raise Bad(f"{first} comes after {last}", f'the first address comes first: ["{last}", "{first}"]')
    if len(found) == 4 and units.bits(found[0]) == units.bits(found[2]):
        raise Bad("two ranges of one kind", "one for IPv4, and one for IPv6")
    return found


def _table(value: object, example: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise wrong("a table", value, example)
    return value


def _options(_key: str, value: object) -> tuple[tuple[str, str], ...]:
    table = _table(value, 'as in options = { ntp-server = "192.0.2.1" }')
    return tuple((_option(name), _option_value(name, one)) for name, one in table.items())


def _option(name: str) -> str:
    if not re.fullmatch(_OPTION, name) or (name.isdecimal() and not 0 < int(name) < 255):
        raise Bad(f'"{name}" is no DHCP option', "a number from 1 to 254, or a name; `dnsmasq --help dhcp` lists them")
    return name


def _option_value(name: str, value: object) -> str:
    if isinstance(value, list):
        return ",".join(string(name, one) for one in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return string(name, value)


def _boot(_key: str, value: object) -> Boot:
    table = _table(value, _BOOT_EXAMPLE)
    for name in table:
        if name not in _BOOT_KEYS:
            raise Bad(f'unknown key "{name}"', did_you_mean(name, _BOOT_KEYS, f"known there: {listed(_BOOT_KEYS)}"))
    found = {name: string(name, one) for name, one in table.items()}
    if not found.get("file"):
        raise Bad("it names no file to boot", _BOOT_EXAMPLE)
    if ("server" in found) == ("tftp" in found):
        both = "of both" if "tftp" in found else "of neither"
        hint = "tftp is a directory that this host serves, server the address of another that does"
        raise Bad(f"it is to come from one of tftp and server, and not {both}", hint)
    server = units.ip(found["server"]) if "server" in found else None
    return Boot(found["file"], server, found.get("tftp"))


def _names(_key: str, value: object) -> tuple[tuple[str, str], ...]:
    table = _table(value, 'as in hosts = { db = "192.168.50.20" }')
    pairs = ((name, one if isinstance(one, list) else [one]) for name, one in table.items())
    return tuple((kinds.hostname(name), units.ip(string(name, one))) for name, several in pairs for one in several)


def _mac(text: str) -> str:
    if text == "auto":
        raise Bad("a known host has an address of its own", 'as in mac = "52:54:00:aa:bb:cc"')
    return kinds.plain_mac(text)


_TEXTS = {"type": "array", "items": {"type": "string"}}
ADDRESSES = several(_address, 'an address with its prefix length, or "auto",')
SERVICE_LIST = several(_service, "a service", pattern=r"^(dhcp|dns|icmp|all|(tcp|udp):[0-9]+)$")
NETWORK_FORWARDS = several(units.network_forward, "a forward", pattern="^(tcp|udp):")
PORT_LIST = several(_port, "an interface")
PORTS = of_text(units.port_range, pattern=r"^[0-9]+(-[0-9]+)?$")
RANGE = Kind(_range, {**_TEXTS, "minItems": 2, "maxItems": 4})
OPTIONS = Kind(_options, {"type": "object"})
BOOT = Kind(
    _boot,
    {
        "type": "object",
        "properties": {name: {"type": "string"} for name in _BOOT_KEYS},
        "required": ["file"],
        "additionalProperties": False,
    },
)
NAMES = Kind(_names, {"type": "object"})
IP = of_text(units.ip)
HOST_MAC = of_text(_mac, pattern="^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$")
LEASE = kinds.SECONDS
