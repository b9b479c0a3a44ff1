"""Sizes, times, addresses, forwards and displays: from text to values and back."""

from __future__ import annotations

import re

from qemunet.config.hints import Bad, nearest
from qemunet.model.nic import Forward, rate_text
from qemunet.model.vm import Display, GtkDisplay, VncDisplay

KIB = 1024
_SIZES = {"K": 10, "M": 20, "G": 30, "T": 40}
# The patterns are compiled where they are used: a start meets few of them.
_SIZE = r"(?a)(\d{1,18})(?:\.(\d{1,9}))?([KMGT])(?:iB)?"
_RATES = {
    "bit": 1,
    "kbit": 10**3,
    "mbit": 10**6,
    "gbit": 10**9,
    "tbit": 10**12,
    "kibit": 1 << 10,
    "mibit": 1 << 20,
    "gibit": 1 << 30,
    "tibit": 1 << 40,
    "bps": 8,
    "kbps": 8 * 10**3,
    "mbps": 8 * 10**6,
    "gbps": 8 * 10**9,
    "tbps": 8 * 10**12,
    "kibps": 8 << 10,
    "mibps": 8 << 20,
    "gibps": 8 << 30,
    "tibps": 8 << 40,
}
_RATE = r"(?a)(\d{1,18})(?:\.(\d{1,9}))? ?([A-Za-z/]*)"
RATE_UNITS = "units are tc's: kbit, mbit, gbit for bits a second, and kbps, mbps, gbps for bytes"
LEAST_RATE, MOST_RATE = 8 * 10**3, 100 * 10**9  # bits per second: a packet in two seconds, and what a bucket can count
_TIMES = {"s": 1, "m": 60, "min": 60, "h": 3600}
_TIME = r"(?a)(\d{1,9})(s|m|min|h)"
_OCTET = r"(?a)0|[1-9]\d{0,2}"
_PORTS = r"(?a)(\d{1,5})(?:-(\d{1,5}))?"
_VNC = r"(?a)vnc=(.*):(\d{1,5})"
MAX_PORT = 65535
VNC_PORT = 5900


# ---------------------------------------------------------------- sizes and times


def size(text: str) -> int:
    """Return the bytes of a size such as ``512M`` or ``1.5G`` (units of 1024); raises Bad."""
    match = re.fullmatch(_SIZE, text)
    if match is None:
        plain = text.isdecimal()
        raise Bad(
            f'"{text}" is {"a size without a unit" if plain else "not a size"}',
            f'K, M, G or T follows the number, as in "{text if plain else 512}M"',
        )
    whole, fraction, unit = match.groups(default="")
    scaled = int(whole + fraction) << _SIZES[unit]
    result, rest = divmod(scaled, int("1" + "0" * len(fraction)))
    if rest or result % KIB:
        raise Bad(f'"{text}" is not a whole number of kibibytes')
    return result


def format_size(value: int) -> str:
    """Return what `size` was given, in the largest unit without a fraction; `value` is a multiple of 1024."""
    unit = next((u for u, shift in reversed(_SIZES.items()) if value and not value % (1 << shift)), "K")
    return f"{value >> _SIZES[unit]}{unit}"


def seconds(text: str) -> int:
    """Return the seconds of a time such as ``30s``, ``5m`` or ``1h``; raises Bad."""
    match = re.fullmatch(_TIME, text)
    if match is None:
        plain = text.isdecimal()
        raise Bad(
            f'"{text}" is {"a time without a unit" if plain else "not a time in whole seconds"}',
            f's, m or h follows the number, as in "{text if plain else 30}s"',
        )
    return int(match[1]) * _TIMES[match[2]]


def rate(text: str) -> int:
    """Return the bits per second of a rate such as ``100mbit`` or ``1.5mbps`` (which are bytes); raises Bad."""
    match = re.fullmatch(_RATE, text)
    if match is None:
        raise Bad(f'"{text}" is not a rate', f'as in "100mbit"; {RATE_UNITS}')
    whole, fraction, unit = match.groups(default="")
    if unit not in _RATES or " " in text:
        raise _unknown_rate(text, unit)
    bits, rest = divmod(int(whole + fraction) * _RATES[unit], int("1" + "0" * len(fraction)))
    if not LEAST_RATE <= bits <= MOST_RATE:
        raise Bad(f'"{text}" is not between {rate_text(LEAST_RATE)} and {rate_text(MOST_RATE)}')
    if rest or bits % 8:
        raise Bad(f'"{text}" is not a whole number of bytes a second')
    return bits


def _unknown_rate(text: str, unit: str) -> Bad:
    """Never guess: in ``100Mbps`` most people mean bits, and tc bytes."""
    plain = text.removesuffix(unit).strip()
    if not unit:
        return Bad(f'"{text}" is a rate without a unit', f'as in "{plain}mbit"; {RATE_UNITS}')
    near = unit.lower() if unit.lower() in _RATES else nearest(unit, _RATES)
    meant = f'"{plain}{near.replace("ps", "it") if near.endswith("bps") else near}"' if near else ""
    bytes_ = f' or, for bytes, "{plain}{near}"' if near.endswith("bps") else ""
    question = f"did you mean {meant}{bytes_}? " if meant else ""
    return Bad(f'"{text}" has a unit that is not known here', f"{question}{RATE_UNITS}")


# ---------------------------------------------------------------- addresses


def ip(text: str) -> str:
    """Return an IPv4 or IPv6 address in its usual form; raises Bad."""
    if ":" in text:
        return _ipv6(text)
    parts = text.split(".")
    if len(parts) != 4 or not all(re.fullmatch(_OCTET, part) and int(part) < 256 for part in parts):
        raise Bad(f'"{text}" is not an IP address')
    return text


def _ipv6(text: str) -> str:
    from ipaddress import IPv6Address  # rarer than IPv4, which needs no module

    try:
        address = IPv6Address(text)
    except ValueError:
        raise Bad(f'"{text}" is not an IPv6 address') from None
    if address.scope_id:
        raise Bad(f'"{text}" has a zone, which only means something on one interface', "leave out the part from %")
    return str(address)


def number(address: str) -> int:
    """Return an address, as `ip` gives it, as a number."""
    if ":" in address:
        from ipaddress import IPv6Address

        return int(IPv6Address(address))
    a, b, c, d = map(int, address.split("."))
    return a << 24 | b << 16 | c << 8 | d


def dotted(value: int, bits: int) -> str:
    """Return the address that is a number, of 32 or 128 bits."""
    if bits == 32:
        return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
    from ipaddress import IPv6Address

    return str(IPv6Address(value))


def bits(address: str) -> int:
    """Return the length of an address: 32 or 128."""
    return 128 if ":" in address else 32


def host_mask(cidr: str) -> tuple[str, int]:
    """Split a CIDR that `interface` or `subnet` gave into its address and the mask of its host bits."""
    address, _, prefix = cidr.partition("/")
    return address, (1 << bits(address) - int(prefix)) - 1


def interface(text: str) -> str:
    """Return an address with its prefix length, ``192.168.50.1/24``; raises Bad."""
    cidr = _cidr(text)
    address, mask = host_mask(cidr)
    host = number(address) & mask
    if mask > 1 and host == 0:
        first = dotted(number(address) + 1, bits(address))
        raise Bad(f'"{text}" is the network itself, not an address in it', f'for example "{first}/{_prefix(cidr)}"')
    if mask > 1 and host == mask and bits(address) == 32:
        raise Bad(f'"{text}" is the broadcast address of its network')
    return cidr


def subnet(text: str) -> str:
    """Return a network, ``10.99.0.0/24``; raises Bad."""
    cidr = _cidr(text)
    address, mask = host_mask(cidr)
    if number(address) & mask:
        first = dotted(number(address) & ~mask, bits(address))
        raise Bad(f'"{text}" is an address, not a network', f'the network is "{first}/{_prefix(cidr)}"')
    return cidr


def _cidr(text: str) -> str:
    address, slash, prefix = text.partition("/")
    address = ip(address)
    if not slash:
        raise Bad(f'"{text}" lacks its prefix length', f'as in "{address}/{64 if ":" in address else 24}"')
    if not re.fullmatch(_OCTET, prefix) or int(prefix) > bits(address):
        raise Bad(f'"{text}" has no prefix length from 0 to {bits(address)} after the slash')
    return f"{address}/{prefix}"


def _prefix(cidr: str) -> str:
    return cidr.partition("/")[2]


def plain(cidr: str) -> str:
    """Return the address of a CIDR."""
    return cidr.partition("/")[0]


def overlap(one: str, other: str) -> bool:
    """Tell whether the networks of two CIDRs have an address in common."""
    return inside(plain(one), other) or inside(plain(other), one)


def inside(address: str, network: str) -> bool:
    """Tell whether an address lies in the network (or in the network of an address) `network`."""
    base, mask = host_mask(network)
    return bits(base) == bits(address) and number(base) | mask == number(address) | mask


# ---------------------------------------------------------------- forwards


def forward(text: str) -> Forward:
    """Read ``PROTO:[ADDR]:PORT[-PORT]:[VM]:PORT[-PORT]``, or the same without the part for the vm; raises Bad."""
    protocol, address, rest = _split_forward(text)
    if len(rest) not in (2, 3):
        raise Bad(f'"{text}" is not a forward', _FORWARD_HINT)
    if protocol not in ("tcp", "udp"):
        raise Bad(f'"{text}" forwards "{protocol}"', 'a forward begins with "tcp:" or "udp:"')
    vm = _target(rest[1]) if len(rest) == 3 else ""
    outer, inner = _ports(text, rest[0]), _ports(text, rest[-1])
    if outer[1] - outer[0] != inner[1] - inner[0]:
        lengths = f"{outer[1] - outer[0] + 1} and {inner[1] - inner[0] + 1}"
        raise Bad(f'"{text}" has port ranges of unequal length ({lengths})')
    return Forward(protocol, ip(address) if address else "", outer, vm, inner)


def network_forward(text: str) -> Forward:
    """Read a network's own forward, which names a guest, or has an address in its place; raises Bad."""
    found = forward(text)
    if not found.vm:
        raise Bad(f'"{text}" does not say to which guest it leads', 'as in "tcp::8080:kali2:80"')
    return found


def is_address(target: str) -> bool:
    """Tell whether a forward leads to an address: names begin with a letter."""
    return ":" in target or target[:1].isdecimal()


def _target(text: str) -> str:
    return ip(text) if is_address(text) else text


_FORWARD_HINT = 'PROTO:[ADDR]:PORT[-PORT]:PORT[-PORT], as in "tcp:127.0.0.1:2222:22"'


def _split_forward(text: str) -> tuple[str, str, list[str]]:
    """Return protocol, address and the rest between the colons; an IPv6 address stands in brackets."""
    protocol, _, rest = text.partition(":")
    if rest.startswith("["):
        address, bracket, rest = rest[1:].partition("]:")
        return protocol, address, _parts(rest) if bracket else []
    address, _, rest = rest.partition(":")
    if re.fullmatch(r"\d+-[\d.]*:\d+", rest):
        ours = rest.replace("-", ":").split(":")
        raise Bad(f'"{text}" is in QEMU\'s own form', f'here it is "{protocol}:{address}:{ours[0]}:{ours[-1]}"')
    return protocol, address, _parts(rest)


def _parts(text: str) -> list[str]:
    """Split a forward's ports and target, which may be an IPv6 address in brackets."""
    before, bracket, rest = text.partition(":[")
    target, end, after = rest.partition("]:")
    return [before, target, after] if bracket and end else text.split(":")


def port_range(text: str) -> tuple[int, int]:
    """Return first and last of ``1024-65535``; raises Bad."""
    match = re.fullmatch(_PORTS, text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last <= MAX_PORT:
        raise Bad(f'"{text}" is not a range of ports from 1 to {MAX_PORT}', 'as in "1024-65535"')
    return first, last


def _ports(text: str, ports: str) -> tuple[int, int]:
    match = re.fullmatch(_PORTS, ports)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last <= MAX_PORT:
        raise Bad(f'"{text}" has "{ports}" where a port (1 to {MAX_PORT}) or a range of them belongs', _FORWARD_HINT)
    return first, last


def format_forward(value: Forward, *, own: bool = False) -> str:
    """Return what `forward` was given; `own`: without the vm, as in a card's own list."""
    address = f"[{value.address}]" if ":" in value.address else value.address
    middle = [] if own else [f"[{value.vm}]" if ":" in value.vm else value.vm]
    return ":".join((value.protocol, address, format_ports(value.ports), *middle, format_ports(value.guest_ports)))


def format_ports(ports: tuple[int, int]) -> str:
    """Return what `port_range` was given."""
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


# ---------------------------------------------------------------- displays


def display(text: str) -> Display:
    """Read ``none``, ``gtk`` or ``vnc=ADDR:N``; raises Bad."""
    if text in ("none", "gtk"):
        return GtkDisplay() if text == "gtk" else None
    match = re.fullmatch(_VNC, text)
    if match is None:
        raise Bad(f'unknown display "{text}"', 'displays are none, gtk and vnc=ADDR:N, as in "vnc=127.0.0.1:1"')
    screen = int(match[2])
    if screen > MAX_PORT - VNC_PORT:
        raise Bad(f'"{text}" has a screen above {MAX_PORT - VNC_PORT}', "screen N is on port 5900 + N")
    address = match[1].removeprefix("[").removesuffix("]")
    return VncDisplay(ip(address) if address else "", screen)


def format_display(value: Display) -> str:
    """Return what `display` was given."""
    match value:
        case None:
            return "none"
        case GtkDisplay():
            return "gtk"
        case VncDisplay(address=address, number=screen):
            return f"vnc=[{address}]:{screen}" if ":" in address else f"vnc={address}:{screen}"
