"""The keys of what a lab expects, and their values."""

from __future__ import annotations

from qemunet.config import kinds
from qemunet.config.tables import Key, Table, keyed
from qemunet.frozen import frozen
from qemunet.model.expect import Family


@frozen
class ExpectSpec:
    """``[[expect]]``."""

    path: str
    name: str | None = None
    source: str | None = None  # written `from`
    to: str | None = None
    ping: bool | None = None
    tcp: int | None = None
    udp: int | None = None
    dhcp: bool | None = None
    allow: bool | None = None
    network: str | None = None
    family: Family | None = None
    listen: bool | None = None
    timeout: int | None = None


_PORT = kinds.whole(1, 65535)

EXPECT = Table(
    "[[expect]]",
    "What has to be so while the lab runs: who reaches whom, and who must not. `qemunet verify` tries it "
    "(docs/verify.md).",
    keyed(
        Key("name", kinds.TEXT, "what it is called in tables and reports", "what it says", derived=True),
        Key("from", kinds.TEXT, "where it is tried: a vm, a namespace, or host"),
        Key("to", kinds.TEXT, "what is to be reached: a vm, a namespace, host, an address, or the name of a host"),
        Key("ping", kinds.BOOL, "it answers a ping: true", "this or one of the next three"),
        Key("tcp", _PORT, "it takes connections to this port", "likewise"),
        Key("udp", _PORT, "datagrams to this port arrive", "likewise"),
        Key("dhcp", kinds.BOOL, "`from` is offered an address: true; without `to`", "likewise"),
        Key("allow", kinds.BOOL, "false: it must not get through", "true"),
        Key("network", kinds.NAME, "only by the cards on this network of the file", "by any"),
        Key("family", kinds.choice(Family), "only by addresses of this kind", "by any"),
        Key(
            "listen",
            kinds.BOOL,
            "if nobody listens at the port of `tcp`, `verify` does meanwhile",
            "true where nothing may get through",
            derived=True,
        ),
        Key("timeout", kinds.SECONDS, "how long to try until it gets through, or how long nothing may", "10s, or 3s"),
    ),
)
