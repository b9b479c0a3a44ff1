"""A network's table among those of others: theirs stay, ours comes and goes as a whole."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.host.nft import comment
from qemunet.model.network import (
    NetworkMode,
    OwnBridge,
)
from qemunet.plan import firewall
from qemunet.steps import DropTable, LoadTable
from tests import namespace
from tests.dump import dump, left_behind, program
from tests.firewall_scene import (
    NAT,
    OUTSIDE,
    Scene,
    forwarded,
    load_text,
    network,
    to_web,
)


def listing() -> list[object]:
    found: list[object] = json.loads(program("nft", "-j", "list", "ruleset"))["nftables"]
    return found


FOREIGN = """
table inet theirs {
    set blocked { type ipv4_addr; elements = { 192.0.2.1 } }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip daddr @blocked drop
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
    }
}
"""


def test_tables_of_others_stay_as_they_are(scene: Scene) -> None:
    """While ours is loaded, loaded again and dropped."""
    load_text(FOREIGN)
    before = listing()
    table = scene.build(network(NetworkMode.NAT, forwarded(to_web())))
    scene.linux.perform(table)
    assert [one for one in listing() if one in before] == before
    scene.linux.perform(DropTable(table.name, table.mark))
    assert listing() == before


def test_a_table_is_loaded_again_without_a_gap(scene: Scene) -> None:
    """With other rules or the same; connections that are open go on."""
    table = scene.build(network(NetworkMode.NAT, NAT))
    server = scene.outside.serve_udp(53)
    client = scene.a.open(socket.SOCK_DGRAM, OUTSIDE)
    client.connect((OUTSIDE, 53))
    client.send(b"one")
    _data, peer = server.recvfrom(10)
    loaded = listing()
    scene.linux.perform(table)
    assert without_handles(listing()) == without_handles(loaded)
    client.send(b"two")
    assert server.recvfrom(10) == (b"two", peer)
    server.sendto(b"three", peer)
    assert client.recv(10) == b"three"


def test_a_table_that_nft_refuses_changes_nothing(scene: Scene) -> None:
    table = scene.build(network(NetworkMode.NAT, NAT))
    before = listing()
    broken = replace(table, rules=table.rules.replace("masquerade", "mosquerade"))
    with pytest.raises(Exception, match="mosquerade"):
        scene.linux.perform(broken)
    assert listing() == before


def test_a_table_of_that_name_that_is_not_ours_is_taken(scene: Scene) -> None:
    """And is neither replaced nor deleted."""
    mark = firewall.table_mark("lab", "run")
    name = firewall.table_name("lab", mark)
    load_text(f'table inet {name} {{ comment "mine"; }}')
    with pytest.raises(Taken, match="mine"):
        scene.linux.perform(LoadTable(name, mark, f"table inet {name} {{ }}\n"))
    with pytest.raises(Gone):
        scene.linux.perform(DropTable(name, mark))
    assert scene.home.inside(lambda: comment(name)) == "mine"


def test_fifty_times_leave_nothing(tmp_path: Path) -> None:
    """No table, no module's rest, no descriptor."""
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace():
        linux = LinuxHost(str(tmp_path))
        facts = linux.photograph(Wanted())
        rules = network(NetworkMode.NAT, forwarded(to_web()))
        switch = rules.switch
        assert isinstance(switch, OwnBridge)
        (table,) = firewall.load(rules, switch, facts)
        assert isinstance(table, LoadTable)
        linux.perform(table)
        linux.perform(DropTable(table.name, table.mark))
        before = dump(tmp_path)
        for _ in range(50):
            linux.perform(table)
            linux.perform(DropTable(table.name, table.mark))
        found = left_behind(before, tmp_path)
        linux.close()
    assert not found, found


def without_handles(found: list[object]) -> str:
    return re.sub(r'"handle": \d+', "", json.dumps(found))
