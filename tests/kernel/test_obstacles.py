"""Rules of others that stand in the way are named, and what the note says opens them."""

from __future__ import annotations

import subprocess

import pytest

from qemunet.host import rulesets
from qemunet.model.network import (
    ForeignBridge,
    Network,
    NetworkMode,
)
from qemunet.plan import obstacles
from tests.firewall_scene import (
    GATE,
    HOST,
    OUTSIDE,
    A,
    B,
    Scene,
    forwarded,
    load_text,
    network,
    to_web,
)
from tests.wires import host_of, tcp, udp, wire


def shell(command: str) -> None:
    """Do what a note says, literally."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def noted(scene: Scene, network: Network) -> tuple[str, ...]:
    place = scene.linux.place
    return obstacles.notes(network, rulesets.read(place), rulesets.bridged(place), frozenset())


DOCKER = """
table ip filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        oifname "docker0" ct state related,established accept
        iifname "docker0" accept
    }
    chain DOCKER-USER {
        counter return
    }
}
"""
PLAIN = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        meta l4proto ipv6-icmp accept
        tcp dport 22 accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
"""
FIREWALLD = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES {
        iifname "eth0" goto filter_FWD_public
        goto filter_FWD_public
    }
    chain filter_FWD_public {
        meta l4proto icmp accept
        reject with icmpx admin-prohibited
    }
}
"""


def works(scene: Scene) -> bool:
    """Whether a guest gets out, is reached by its forward, and by its neighbour, and has the host's services."""
    with (
        scene.a.serve(80) as guest,
        scene.outside.serve(80) as web,
        scene.home.serve_udp(53) as names_of_host,
    ):
        found = (
            tcp(scene.a, OUTSIDE, 80, web),
            tcp(scene.outside, HOST, 8080, guest),
            tcp(scene.b, A, 80, guest),
            udp(scene.a, GATE, 53, names_of_host),
        )
    return all(host_of(seen) for seen in found)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (DOCKER, ("Docker", "table ip filter", "chain FORWARD", "hook forward", "policy drop", "send each other")),
        (PLAIN, ("table inet filter", "chain input", "hook input", "DHCP, DNS", "chain forward")),
        (FIREWALLD, ("firewalld", "table inet firewalld", "chain filter_FORWARD", "policy accept", "send out")),
    ],
    ids=["docker", "nftables", "firewalld"],
)
def test_rules_of_others_in_the_way_are_named_with_what_opens_them(
    scene: Scene, rules: str, words: tuple[str, ...]
) -> None:
    """The command does what it says: it silences the note and lets the traffic through, though nothing else does."""
    lab = network(NetworkMode.NAT, forwarded(to_web()))
    scene.build(lab)
    assert noted(scene, lab) == ()
    load_text(rules)
    found = noted(scene, lab)
    text = "\n".join(found)
    assert all(word in text for word in words), text
    assert not works(scene)
    for note in found:
        shell(note.partition(" to let it pass: ")[2])
    assert noted(scene, lab) == ()
    assert works(scene)


def test_frames_between_ports_of_anybodys_bridge_can_be_dropped(scene: Scene) -> None:
    """Where br_netfilter sends them through the rules of forwarding; where it does not, there is nothing to say."""
    load_text(PLAIN)
    theirs = Network("lab", NetworkMode.BRIDGE, ForeignBridge("br7", 1500))
    scene.home.ip("link", "add", "br7", "up", "type", "bridge")
    for name, guest, address in (("qa", scene.a, A), ("qb", scene.b, B)):
        wire(scene.home, name, guest, "eth0", "br7")
        guest.ip("address", "add", f"{address}/24", "dev", "eth0")
    server = scene.b.serve(80)
    (note,) = noted(scene, theirs)
    assert "what guests send each other" in note
    assert tcp(scene.a, B, 80, server) == "silence"
    shell(note.partition(" to let it pass: ")[2])
    assert noted(scene, theirs) == ()
    assert host_of(tcp(scene.a, B, 80, server)) == A
    load_text("delete table inet filter")
    load_text(PLAIN)
    for key in ("iptables", "ip6tables"):
        scene.home.sysctl(f"net/bridge/bridge-nf-call-{key}", "0")
    assert noted(scene, theirs) == ()
    assert host_of(tcp(scene.a, B, 80, server)) == A
