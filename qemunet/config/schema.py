"""What the table of keys is for others: a JSON Schema of lab files for editors, and a reference for people."""

from __future__ import annotations

import typing

from qemunet.config import cablekeys, impairkinds, keys, kinds, netkinds, secretkinds, vlankinds
from qemunet.model.names import NAME

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.keys import Key, Table
    from qemunet.config.kinds import Kind

Schema = dict[str, object]


# How the kinds of values are written, where their schema alone would not tell a reader.
_WRITTEN = (
    (kinds.NAME, "name: a letter, then up to 62 letters, digits and hyphens"),
    (kinds.PATH, "path, relative to the file"),
    (kinds.END, '"ADDR:PORT", "[ADDR]:PORT" or "unix:PATH"'),
    (kinds.GROUP, '"ADDR:PORT"'),
    (kinds.DEVICE, 'PCI address: "0000:03:00.1" or "03:00.1"'),
    (kinds.PATHS, "one path or a list of them"),
    (kinds.MACHINE, 'text, as in "pc,acpi=off"'),
    (kinds.IFNAME, "name of an interface, at most 15 bytes"),
    (kinds.LINK, "name of an interface"),
    (kinds.MAC, '"52:54:00:12:34:56" or "auto"'),
    (kinds.MAC_PREFIX, '1 to 5 bytes, as in "52:54:00"'),
    (kinds.MEMORY, 'size with K, M, G or T, as in "512M" or "1.5G"; 1M to 64T'),
    (kinds.SIZE, 'size with K, M, G or T, as in "10G"'),
    (kinds.SECONDS, 'time with s, m or h, as in "30s", or 0'),
    (kinds.DISPLAY, '"none", "gtk" or "vnc=ADDR:N"'),
    (kinds.TYPED, 'text; control characters too, as in "\\u0003"'),
    (kinds.REGEX, "regular expression of Python's `re`"),
    (secretkinds.SECRET, '`{ file = "password.txt" }` or `{ env = "PASSWORD" }`'),
    (secretkinds.SECRETS, 'table, as in `{ root = { file = "password.txt" }, api = { env = "TOKEN" } }`'),
    (kinds.NAMES, "a name or a list of them"),
    (kinds.READY, '"dhcp", "console=REGEX", "tcp=PORT" or "script"'),
    (kinds.USER, '"auto", a name, or "UID:GID"'),
    (kinds.QUEUES, '1 to 256, or "auto"'),
    (
        kinds.RATE,
        '`{ in = "100mbit", out = "20mbit" }` or one of the two; kbit, mbit, gbit, or bytes: kbps, mbps, gbps',
    ),
    (
        impairkinds.IMPAIR,
        '`{ delay = "20ms", jitter = "5ms", loss = "1%", duplicate = "1%", corrupt = "0.1%", reorder = "5%" }` or some',
    ),
    (vlankinds.VLAN, '`{ access = 10 }`, or `{ trunk = [10, "20-29"], native = 1 }` with native or without'),
    (vlankinds.PORT_VLANS, "table, as in `{ eth1 = { trunk = [10, 20] } }`"),
    (kinds.IPS, "one address or a list of them"),
    (kinds.IP4, "IPv4 address"),
    (kinds.INTERFACES, 'one address with prefix length or a list, as in ["10.0.0.1/24"]'),
    (kinds.SUBNETS, 'one network or a list, as in ["10.99.0.0/24"]'),
    (kinds.SLIRP_SUBNET, "IPv4 network of /4 to /28"),
    (kinds.HOSTNAME, "host name"),
    (kinds.FORWARDS, 'one forward or a list: "PROTO:[ADDR]:PORT[-PORT]:PORT[-PORT]"'),
    (
        netkinds.ADDRESSES,
        'one address with prefix length or a list, as in ["192.168.50.1/24", "fd77::1/64"], or "auto"',
    ),
    (netkinds.PORT_LIST, 'one interface or a list of them, as in ["eth1"]'),
    (netkinds.SERVICE_LIST, "one service or a list of them"),
    (netkinds.NETWORK_FORWARDS, 'one forward or a list: "PROTO:[ADDR]:PORT[-PORT]:VM:PORT[-PORT]"'),
    (netkinds.PORTS, 'ports, as in "1024-65535"'),
    (netkinds.RANGE, 'two addresses, as in ["192.168.50.100", "192.168.50.200"], or four'),
    (netkinds.OPTIONS, 'table, as in `{ ntp-server = "192.0.2.1" }`'),
    (netkinds.BOOT, 'table, as in `{ file = "pxelinux.0", tftp = "dir" }`'),
    (netkinds.NAMES, 'table, as in `{ db = "192.168.50.20" }`'),
    (netkinds.IP, "address"),
    (cablekeys.END, '"network:NAME", "bridge:IFNAME", "netns:NAME", "host" or "free"'),
    (cablekeys.ROUTES, 'one route or a list, as in ["192.168.60.0/24", "10.0.0.0/8 via 192.168.5.2"]'),
    (cablekeys.NETNS_ROUTES, 'one route or a list, as in ["default via 192.168.5.254", "10.0.0.0/8 dev veth11"]'),
    (cablekeys.ADDRESSES, 'table, as in `{ veth11 = "192.168.5.1/24" }`'),
    (cablekeys.SYSCTLS, 'table, as in `{ "net.ipv4.ip_forward" = 1 }`'),
    (netkinds.HOST_MAC, '"52:54:00:12:34:56"'),
    (kinds.ORDER, 'list of "disk", "network", "cdrom"'),
    (kinds.TEXTS, "list of texts"),
    (kinds.BOOL, "true or false"),
    (kinds.AGENT, 'true, false or "qemu"'),
    (kinds.TEXT, "text"),
)


def lab_schema() -> Schema:
    """Return the schema (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qemunet lab",
        "description": "Guests, their cards, their networks and cables.",
        "type": "object",
        "properties": {
            "lab": _table(keys.LAB),
            "vm": _named(keys.VM),
            "network": _named(keys.NETWORK),
            "dhcp-server": _named(keys.DHCP_SERVER),
            "netns": _named(keys.NETNS),
            "cable": {"type": "array", "items": _table(keys.CABLE)},
            "expect": {"type": "array", "items": _table(keys.EXPECT)},
        },
        "additionalProperties": False,
    }


def _named(table: Table) -> Schema:
    """Return the schema of a table of named tables."""
    return {
        "type": "object",
        "description": table.doc,
        "patternProperties": {f"^{NAME.pattern}$": _table(table)},
        "additionalProperties": False,
    }


def _table(table: Table) -> Schema:
    properties: Schema = {key.name: _key(key) for key in table.keys.values()}
    properties |= {name: _sub_table(keys.sub_table(name)) for name in table.tables}
    properties |= {name: {"type": "array", "items": _table(keys.sub_table(name))} for name in table.lists}
    properties |= {name: _named(keys.sub_table(name)) for name in table.named}
    needed = {keys.DISK.title: ["file"], keys.CABLE.title: ["a", "b"]}.get(table.title)
    required: Schema = {"required": needed} if needed else {}
    return {
        "type": "object",
        "description": table.doc,
        "properties": properties,
        **required,
        "additionalProperties": False,
    }


def _sub_table(table: Table) -> Schema:
    """Return the schema of a table that may be true or false instead, if it is such a one."""
    described = _table(table)
    return {"anyOf": [{"type": "boolean"}, described]} if table.default else described


def _key(key: Key) -> Schema:
    return {"description": describe(key), **key.kind.schema}


def describe(key: Key) -> str:
    """Return a key's one-line documentation with its default and what it belongs to."""
    default = f" (default: {key.default})" if key.default else ""
    belongs = f"; only for {' or '.join(key.belongs)}" if key.belongs else ""
    return f"{key.doc}{belongs}{default}"


# ---------------------------------------------------------------- for people


def markdown() -> str:
    """Return the reference of all keys as a page of Markdown."""
    tables: tuple[Table, ...] = (
        keys.LAB,
        keys.VM,
        keys.BOOT,
        keys.DISK,
        keys.NIC,
        keys.LOGIN,
        keys.SCRIPT,
        keys.MACHINE,
        keys.NETWORK,
    )
    tables += (keys.NAT_TABLE, keys.DHCP, keys.DNS, keys.HOSTS, keys.PORT_PROFILE)
    tables += (keys.DHCP_SERVER, keys.CABLE, keys.NETNS, keys.EXPECT)
    return "\n".join((_PREFACE, *(line for table in tables for line in _section(table))))


_PREFACE = """# The lab file

Every key that there is; `qemunet schema --markdown` prints this page, and `qemunet schema` the same for editors. A key
with a star can be preset by a profile, in its tables `[vm]`, `[machine]`, `[nic]` and `[disk]`. `qemunet show FILE`
prints a lab with every default spelled out and says where each value came from.
"""


def _section(table: Table) -> Iterator[str]:
    limits = f" Only for {' or '.join(table.belongs)}." if table.belongs else ""
    yield f"## `{table.title}`\n\n{table.doc}{limits}\n\n| key | value | default | what |\n| --- | --- | --- | --- |"
    for key in table.keys.values():
        star = "*" if key.profile else ""
        what = f"{key.doc} (only for {' or '.join(key.belongs)})" if key.belongs else key.doc
        row = (f"`{key.name}`{star}", _written(key.kind), key.default or "-", what)
        yield f"| {' | '.join(row)} |"
    yield ""


def _written(kind: Kind) -> str:
    """Say how a value is written."""
    if words := kind.schema.get("enum"):
        assert isinstance(words, list)
        return ", ".join(f'"{word}"' for word in words)
    if kind.schema.get("type") == "integer":
        return f"{kind.schema['minimum']} to {kind.schema['maximum']}"
    return next(text for known, text in _WRITTEN if known is kind)
