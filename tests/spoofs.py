"""What guests send: what every honest one does, and what only one does that pretends to be somebody else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from qemunet.model.guard import GuardLevel
from tests.frames import address, ethernet

ME, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:0f"
IP, OTHER_IP, HOST_IP, NOBODY = "192.0.2.9", "192.0.2.8", "192.0.2.1", "0.0.0.0"
IP6, OTHER_IP6, HOST_IP6, NOBODY6 = "fd77::9", "fd77::8", "fd77::1", "::"
LOCAL, OTHER_LOCAL, HOST_LOCAL = "fe80::5054:ff:fe00:1", "fe80::77", "fe80::1"
ALL_NODES, SWITCHES, LLDP = "33:33:00:00:00:01", "01:80:c2:00:00:00", "01:80:c2:00:00:0e"
CLEAN, STRICT, MAC = GuardLevel.CLEAN, GuardLevel.STRICT, GuardLevel.MAC
LEVELS = [GuardLevel.OFF, MAC, CLEAN, STRICT]


@dataclass(frozen=True)
class Case:
    """A frame, the lowest level that drops it, and as what it is counted there; None: nobody drops it."""

    name: str
    frame: bytes
    level: GuardLevel | None = None
    kind: str = ""

    def passes(self, level: GuardLevel) -> bool:
        return self.level is None or LEVELS.index(level) < LEVELS.index(self.level)


def mark(name: str) -> bytes:
    """What a frame is known by, whatever the kernel takes from it."""
    return f"<{name}>".encode()


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) % 2 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def v4(text: str) -> bytes:
    return socket.inet_aton(text)


def v6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def arp(name: str, operation: int, sender: str, target: str, mac: str = ME, source: str = ME, hlen: int = 6) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, hlen, 4, operation)
    return ethernet(source, head + address(mac) + v4(sender) + bytes(6) + v4(target) + mark(name), 0x0806)


def ipv4(source: str, protocol: int, payload: bytes, mac: str = ME, to: str = "255.255.255.255") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + v4(source) + v4(to)
    return ethernet(mac, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload, 0x0800)


def udp(name: bytes, source: int, to: int) -> bytes:
    return struct.pack("!HHHH", source, to, 8 + len(name), 0) + name


def bootp(name: str, mac: str) -> bytes:
    """As much of a DHCP message as anybody looks at."""
    return struct.pack("!BBBB", 1, 1, 6, 0) + bytes(24) + address(mac) + bytes(202) + mark(name)


def ipv6(source: str, payload: bytes, following: int = 58, to: str = "ff02::1", mac: str = ME) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 255) + v6(source) + v6(to)
    return ethernet(mac, head + payload, 0x86DD, ALL_NODES)


def icmp6(name: str, kind: int, target: str | None = None) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0) + (v6(target) if target else b"") + mark(name)


def behind_hops(payload: bytes) -> bytes:
    """As listener reports are sent: with the router alert in a header of its own."""
    return struct.pack("!BB", 58, 0) + bytes.fromhex("050200000100") + payload


def in_fragment(payload: bytes) -> bytes:
    return struct.pack("!BBHI", 58, 0, 1, 7) + payload


def tagged(frame: bytes, kind: int = 0x8100) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, 10) + frame[12:]


def honest() -> Iterator[Case]:
    """What has to pass every guard."""
    yield Case("arp-request", arp("arp-request", 1, IP, HOST_IP))
    yield Case("arp-probe", arp("arp-probe", 1, NOBODY, IP))
    yield Case("arp-announcement", arp("arp-announcement", 1, IP, IP))
    yield Case("arp-reply", arp("arp-reply", 2, IP, OTHER_IP))
    yield Case("dhcp-discover", ipv4(NOBODY, 17, udp(bootp("dhcp-discover", ME), 68, 67)))
    yield Case("dhcp-renewal", ipv4(IP, 17, udp(bootp("dhcp-renewal", ME), 68, 67), to=HOST_IP))
    yield Case("igmp-first", ipv4(NOBODY, 2, b"\x16\0\0\0" + v4("224.0.0.251") + mark("igmp-first")))
    yield Case("igmp", ipv4(IP, 2, b"\x16\0\0\0" + v4("224.0.0.251") + mark("igmp")))
    yield Case("udp", ipv4(IP, 17, udp(mark("udp"), 5000, 5001)))
    yield Case("dad-local", ipv6(NOBODY6, icmp6("dad-local", 135, LOCAL)))
    yield Case("dad", ipv6(NOBODY6, icmp6("dad", 135, IP6)))
    yield Case("rs-first", ipv6(NOBODY6, icmp6("rs-first", 133)))
    yield Case("rs", ipv6(LOCAL, icmp6("rs", 133)))
    yield Case("mld-first", ipv6(NOBODY6, behind_hops(icmp6("mld-first", 143)), 0))
    yield Case("mld", ipv6(LOCAL, behind_hops(icmp6("mld", 143)), 0))
    yield Case("ns", ipv6(IP6, icmp6("ns", 135, OTHER_IP6)))
    yield Case("na", ipv6(IP6, icmp6("na", 136, IP6)))
    yield Case("na-local", ipv6(LOCAL, icmp6("na-local", 136, LOCAL)))
    yield Case("dhcp6", ipv6(LOCAL, udp(mark("dhcp6"), 546, 547), 17))
    yield Case("udp6", ipv6(IP6, udp(mark("udp6"), 5000, 5001), 17))
    yield Case("fragment6", ipv6(IP6, struct.pack("!BBHI", 17, 0, 1, 7) + udp(mark("fragment6"), 5000, 5001), 44))


def dishonest() -> Iterator[Case]:
    """What a guard is there for."""
    yield Case("mac", ethernet(OTHER, mark("mac")), MAC, "mac")
    yield Case("mac-ip", ipv4(IP, 17, udp(mark("mac-ip"), 5000, 5001), mac=OTHER), MAC, "mac")
    yield Case("arp-of-mac", arp("arp-of-mac", 2, IP, HOST_IP, source=OTHER), MAC, "mac")
    yield Case("arp-mac", arp("arp-mac", 2, IP, HOST_IP, mac=OTHER), MAC, "arp")
    yield Case("arp-ip", arp("arp-ip", 2, OTHER_IP, HOST_IP), CLEAN, "arp")
    yield Case("arp-host", arp("arp-host", 1, HOST_IP, HOST_IP), CLEAN, "arp")
    yield Case("arp-odd", arp("arp-odd", 2, IP, HOST_IP, hlen=8), CLEAN, "arp")
    yield Case("ip", ipv4(OTHER_IP, 17, udp(mark("ip"), 5000, 5001)), CLEAN, "ip")
    yield Case("ip-host", ipv4(HOST_IP, 17, udp(mark("ip-host"), 5000, 5001)), CLEAN, "ip")
    yield Case("ip-nobody", ipv4(NOBODY, 17, udp(mark("ip-nobody"), 5000, 5001)), CLEAN, "ip")
    yield Case("offer", ipv4(IP, 17, udp(bootp("offer", ME), 67, 68)), CLEAN, "dhcp")
    yield Case("offer-odd", ipv4(IP, 17, udp(bootp("offer-odd", ME), 6767, 68)), CLEAN, "dhcp")
    yield Case("discover-other", ipv4(NOBODY, 17, udp(bootp("discover-other", OTHER), 68, 67)), CLEAN, "dhcp")
    yield Case("advertise", ipv6(LOCAL, udp(mark("advertise"), 547, 546), 17), CLEAN, "dhcp")
    yield Case("redirect", ipv4(IP, 1, b"\5\1\0\0" + v4(OTHER_IP) + mark("redirect")), CLEAN, "redirect")
    yield Case("ra", ipv6(LOCAL, icmp6("ra", 134)), CLEAN, "ra")
    yield Case("ra-hops", ipv6(LOCAL, behind_hops(icmp6("ra-hops", 134)), 0), CLEAN, "ra")
    yield Case("ra-fragment", ipv6(LOCAL, in_fragment(icmp6("ra-fragment", 134)), 44), CLEAN, "ra")
    hidden = struct.pack("!BBHI", 60, 0, 1, 7) + struct.pack("!BB", 58, 7) + bytes(62) + mark("ra-hidden")
    yield Case("ra-hidden", ipv6(LOCAL, hidden, 44), CLEAN, "ra")
    yield Case("redirect6", ipv6(LOCAL, icmp6("redirect6", 137, OTHER_IP6)), CLEAN, "redirect")
    yield Case("na-other", ipv6(IP6, icmp6("na-other", 136, OTHER_IP6)), CLEAN, "nd")
    yield Case("na-host", ipv6(IP6, icmp6("na-host", 136, HOST_IP6)), CLEAN, "nd")
    yield Case("na-router", ipv6(LOCAL, icmp6("na-router", 136, HOST_LOCAL)), CLEAN, "nd")
    yield Case("dad-other", ipv6(NOBODY6, icmp6("dad-other", 135, OTHER_IP6)), CLEAN, "nd")
    yield Case("ip6", ipv6(OTHER_IP6, udp(mark("ip6"), 5000, 5001), 17), CLEAN, "ip")
    yield Case("ip6-host", ipv6(HOST_IP6, udp(mark("ip6-host"), 5000, 5001), 17), CLEAN, "ip")
    yield Case("ip6-router", ipv6(HOST_LOCAL, udp(mark("ip6-router"), 5000, 5001), 17), CLEAN, "ip")
    yield Case("ip6-nobody", ipv6(NOBODY6, udp(mark("ip6-nobody"), 5000, 5001), 17), CLEAN, "ip")
    yield Case("vlan", tagged(ipv4(OTHER_IP, 17, udp(mark("vlan"), 5000, 5001))), CLEAN, "vlan")
    yield Case("vlan-service", tagged(ipv4(IP, 17, udp(mark("vlan-service"), 5000, 5001)), 0x88A8), CLEAN, "vlan")
    yield Case("bpdu", ethernet(ME, mark("bpdu"), 0x0026, SWITCHES), CLEAN, "other")
    yield Case("na-local-other", ipv6(IP6, icmp6("na-local-other", 136, OTHER_LOCAL)), STRICT, "nd")
    yield Case("ip6-local-other", ipv6(OTHER_LOCAL, udp(mark("ip6-local-other"), 5000, 5001), 17), STRICT, "ip")
    yield Case("experiment", ethernet(ME, mark("experiment")), STRICT, "other")
