"""What may be a name, and how names on the host are derived from names in the lab."""

from __future__ import annotations

import re

# Module `hashlib` costs 13 ms to import because it binds OpenSSL; the digest below is a C module of its own.
from _blake2 import blake2b

NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")
IFNAMSIZ = 15  # bytes of an interface name, without the terminating zero (if_nametoindex(3))
ALTNAME_SIZE = 127  # of an alternative name (ALTIFNAMSIZ in linux/if.h)

_FORBIDDEN_IFNAMES = frozenset({".", "..", "all", "default"})


def is_name(text: str) -> bool:
    """Tell whether `text` may name a vm, network, nic, namespace or lab."""
    return NAME.fullmatch(text) is not None


def is_ifname(text: str) -> bool:
    """Tell whether the kernel takes `text` literally as an interface name (dev_valid_name in net/core/dev.c).

    ``all`` and ``default`` would name sysctl directories; ``%`` would make it a template.
    """
    return (
        0 < len(text.encode()) <= IFNAMSIZ
        and text not in _FORBIDDEN_IFNAMES
        and not any(c in "/:%" or c.isspace() for c in text)
    )


def ifname(*parts: str) -> str:
    """Return the host interface name for something of ours, ``qn-`` and the parts, at most 15 bytes.

    A name that does not fit keeps its head and gets a hash of the whole, so that it stays readable and unique.
    """
    full = "-".join(("qn", *parts))
    if len(full) <= IFNAMSIZ:
        return full
    return f"{full[: IFNAMSIZ - 6]}{digest(full, 3)}"


def ifb(vm: str, nic: str) -> str:
    """Return the name of the interface through which a card is shaped; no name in a lab has a dot."""
    return ifname(vm, f"{nic}.ifb")


def altname(scope: str, part: str) -> str:
    """Return the readable mark ``qemunet.<scope>.<part>`` of a link of ours (altnames must have no slash).

    One that does not fit keeps its head and gets a hash of the whole.
    """
    full = f"qemunet.{scope.replace('/', '-')}.{part}"
    return full if len(full) <= ALTNAME_SIZE else f"{full[: ALTNAME_SIZE - 13]}-{digest(full, 6)}"


def group(runtime: str, scope: str) -> int:
    """Return the link group of a scope: a number from 2^30 up, the same for the same runtime directory and scope."""
    return 0x4000_0000 | int(digest(f"{runtime}\0{scope}", 4), 16) & 0x3FFF_FFFF


def digest(text: str, size: int) -> str:
    """Return `size` bytes of a hash of `text` as lower-case hexadecimal digits."""
    return blake2b(text.encode(), digest_size=size).hexdigest()
