"""What a table of a lab file is made of: its keys, its sub-tables, and what each of them is limited to."""

from __future__ import annotations

from qemunet.config.kinds import Kind
from qemunet.frozen import frozen

# To what a key of a card or of a network belongs, in the words of a message. A key without any belongs to all.
USER = 'mode "user"'
TAP = 'mode "tap"'
MACVTAP = 'mode "macvtap"'
STREAM = 'mode "stream"'
DGRAM = 'mode "dgram"'
MCAST = 'mode "mcast"'
VDE = 'mode "vde"'
PASST = 'mode "passt"'
VHOST_USER = 'mode "vhost-user"'
HOSTDEV = 'mode "hostdev"'
ADOPTED = "a tap that is there (adopt = true)"
POINT_TO_POINT = 'a point-to-point card (mode "tap" without network or bridge)'
ON_NETWORK = 'a card on a network (network = "…", without mode or with mode "tap")'
ON_BRIDGE = 'a card on a bridge (network = "…" or bridge = "…")'
PRIVATE = 'mode "private"'
ISOLATED = 'mode "isolated"'
NAT = 'mode "nat"'
ROUTED = 'mode "routed"'
OPEN = 'mode "open"'
BRIDGE = 'mode "bridge"'
PORTS = 'mode "bridge" with ports'
OWN_BRIDGE = 'a bridge of our own (every mode but "macvtap", and "bridge" without ports)'
HOST_ON_IT = 'a network that the host is on (mode "isolated", "nat", "routed" or "open")'
DIRECT = "a boot with kernel"
FROM_FIRMWARE = "a boot without kernel and guest"


_FIELDS = {"path": "socket", "from": "source"}  # a table's own `path` is where it stands; `from` is Python's


def field_of(name: str) -> str:
    """Return the name of the attribute that holds the value of a key."""
    return _FIELDS.get(name, name.replace("-", "_"))


@frozen
class Key:
    """One key. `default` is text for people; `belongs` to what it is limited; `profile`: a profile may preset it.

    `derived`: the default is worked out from other things.
    """

    name: str
    kind: Kind
    doc: str
    default: str = ""
    belongs: tuple[str, ...] = ()
    profile: bool = False
    derived: bool = False

    @property
    def field(self) -> str:
        """The name of the attribute that holds the value."""
        return field_of(self.name)


@frozen
class Table:
    """One kind of table. `tables` are its sub-tables, `lists` its arrays of tables, `named` its tables of named ones.

    `belongs`: to what it is limited, as of a key. `default`: one that may be true or false instead has it, as text for
    people.
    """

    title: str  # as it is written in a file
    doc: str
    keys: dict[str, Key]
    tables: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    belongs: tuple[str, ...] = ()
    default: str = ""
    named: tuple[str, ...] = ()

    def known(self) -> list[str]:
        """Return every key that may stand in the table."""
        return [*self.keys, *self.tables, *self.lists, *self.named]


def keyed(*keys: Key) -> dict[str, Key]:
    """Return keys by their names, in order."""
    return {key.name: key for key in keys}
