"""What becomes of packets in somebody else's rules, and what is said about it."""

from __future__ import annotations

import json

import pytest

from qemunet.frozen import replace
from qemunet.host import rulesets
from qemunet.model.network import Dns, Firewall, Masquerade, Network, NetworkMode, OwnBridge, PortForward, Services
from qemunet.plan import obstacles
from qemunet.plan.traversal import Chain, Condition, Packet, Rule, fate, holds

BRIDGE = OwnBridge("virbr4", "02:00:00:00:00:04", 1500, False, 0, 300, ("192.168.50.1/24",))
RULES = Firewall(None, Masquerade(), (), ("dns",))
NAT = Network("lab", NetworkMode.NAT, BRIDGE, firewall=RULES)
OUT = Packet("forward", 4, {"iifname": "virbr4", "ct state": "new", "ct status": "", "ip saddr": "192.168.50.0/24"})
DNS = Packet("input", 4, {"iifname": "virbr4", "l4proto": "udp", "dport": "53", "ct state": "new", "ct status": ""})
ACCEPT, DROP = Rule((), "accept"), Rule((), "drop")


def base(*rules: Rule, policy: str = "drop", hook: str = "forward", **more: str) -> Chain:
    values = {"family": "ip", "table": "filter", "name": "FORWARD"} | more
    return Chain(rules=rules, hook=hook, policy=policy, **values)


def notes(*chains: Chain, network: Network = NAT, bridged: tuple[int, ...] = (), has: str = "") -> tuple[str, ...]:
    return obstacles.notes(network, chains, frozenset(bridged), frozenset(has.split()))


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("key", "values", "packet", "known"),
    [
        ("iifname", "virbr4", OUT, True),
        ("iifname", "eth0", OUT, False),
        ("iifname", "vir*", OUT, True),
        ("oifname", "eth0", OUT, False),
        ("ip saddr", "192.168.0.0/16", OUT, True),
        ("ip saddr", "192.168.50.0/25", OUT, False),
        ("ct state", "established new", OUT, True),
        ("udp dport", "53", DNS, True),
        ("udp dport", "50-60", DNS, True),
        ("th dport", "53", DNS, True),
        ("tcp dport", "53", DNS, False),
        ("udp dport", "53", OUT, False),
        ("nfproto", "ipv4", OUT, True),
        ("", "x", OUT, False),
    ],
)
def test_a_condition_holds_if_that_is_known(key: str, values: str, packet: Packet, known: bool) -> None:
    assert holds(Condition(key, tuple(values.split())), packet) is known


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("iifname", "eth0", True),
        ("iifname", "virbr4", False),
        ("oifname", "eth0", False),
        ("ip saddr", "10.0.0.0/8", True),
        ("ip saddr", "192.168.50.7", False),
    ],
)
def test_a_denial_holds_if_nothing_of_it_can_be(key: str, value: str, known: bool) -> None:
    """A guest may have that very address; a way out that nobody knows may be that one."""
    assert holds(Condition(key, (value,), negated=True), OUT) is known


@pytest.mark.parametrize(
    ("rules", "others", "found"),
    [
        ((), (), "drop"),
        ((ACCEPT,), (), "accept"),
        ((Rule((Condition(""),), "accept"),), (), "drop"),
        ((Rule((), "jump", "sub"),), (ACCEPT,), "accept"),
        ((Rule((), "jump", "sub"), ACCEPT), (Rule((), "return"), DROP), "accept"),
        ((Rule((), "goto", "sub"), ACCEPT), (), "drop"),
        ((Rule((), "jump", "nowhere"), ACCEPT), (), "accept"),
        ((Rule((), "jump", "sub"),), (Rule((), "jump", "sub"),), "drop"),
    ],
)
def test_a_packet_is_followed_through_chains(rules: tuple[Rule, ...], others: tuple[Rule, ...], found: str) -> None:
    """With jumps and returns as the kernel does them; in circles for a while."""
    chain = base(*rules)
    assert fate(chain, (chain, Chain("ip", "filter", "sub", others), Chain("ip6", "filter", "nowhere")), OUT) == found


# ---------------------------------------------------------------- notes


def test_a_policy_that_drops_is_named_with_chain_hook_and_remedy() -> None:
    (note,) = notes(base())
    assert note == (
        "the firewall of iptables (table ip filter, chain FORWARD, hook forward, policy drop) will drop what guests "
        'send out and the answers to it; to let it pass: nft \'insert rule ip filter FORWARD iifname "virbr4" accept; '
        'insert rule ip filter FORWARD oifname "virbr4" accept\''
    )


@pytest.mark.parametrize(
    "chain",
    [
        base(policy="accept"),
        base(ACCEPT),
        base(hook="output"),
        base(family="ip6"),
        base(table="qemunet-lab-40000000", family="inet"),
        base(hook=""),
    ],
)
def test_what_drops_nothing_of_the_network_is_not_named(chain: Chain) -> None:
    """Nor are tables of ours."""
    assert notes(chain) == ()


def test_a_drop_in_a_chain_that_accepts_otherwise_is_one_too() -> None:
    (note,) = notes(base(DROP, policy="accept"))
    assert "policy accept) will drop" in note


def test_each_hook_and_kind_of_traffic_is_looked_at() -> None:
    web = PortForward("tcp", "", (8080, 8080), "192.168.50.12", (80, 80))
    bound = replace(NAT, firewall=replace(RULES, uplink="eth0", forwards=(web,)))
    dnat = Rule((Condition("ct status", ("dnat",)),), "drop")
    (note,) = notes(base(dnat, policy="accept"), network=bound)
    assert "will drop forwarded ports;" in note
    (note,) = notes(base(name="INPUT", hook="input"))
    assert "will drop DNS from guests to the host; to let it pass: nft 'insert rule ip filter INPUT iifname" in note
    closed = base(Rule((Condition("oifname", ("eth0",)),), "drop"), policy="accept")
    assert "what guests send out;" in notes(closed, network=bound)[0]
    assert notes(closed) == ()
    routed = replace(NAT, mode=NetworkMode.ROUTED)
    assert "what is sent to guests" in notes(base(), network=routed)[0]
    isolated = replace(NAT, mode=NetworkMode.ISOLATED)
    assert notes(base(), network=isolated) == ()
    assert "what guests send each other" in notes(base(), network=isolated, bridged=(4,))[0]
    served = Services(None, None, Dns(None, (), (), False), (), 1500)
    free = replace(NAT, mode=NetworkMode.OPEN, firewall=None, services=served)
    assert "DNS" in notes(base(name="INPUT", hook="input"), network=free)[0]


@pytest.mark.parametrize(
    ("names", "owner"),
    [
        (("DOCKER-USER", "DOCKER"), "Docker"),
        (("ufw-before-forward",), "ufw"),
        (("nixos-fw",), "the NixOS firewall"),
        (("KUBE-FORWARD",), "Kubernetes"),
        ((), "iptables"),
    ],
)
def test_the_owner_is_known_by_the_names_he_gives(names: tuple[str, ...], owner: str) -> None:
    chains = (base(), *(Chain("ip", "filter", name) for name in names))
    assert obstacles.product(chains[0], chains) == owner
    assert obstacles.product(base(table="mine", name="forward"), chains) == ""


@pytest.mark.parametrize(
    ("chains", "has", "command"),
    [
        ((base(), Chain("ip", "filter", "DOCKER-USER")), "iptables", "iptables -I DOCKER-USER -i virbr4 -j ACCEPT && "),
        ((base(), Chain("ip", "filter", "DOCKER-USER")), "", "nft 'insert rule ip filter DOCKER-USER iifname "),
        ((base(), Chain("ip", "filter", "ufw-x")), "ufw", "ufw route allow in on virbr4 && ufw route allow out on v"),
        ((base(table="firewalld", name="x"),), "firewall-cmd", "firewall-cmd --zone=trusted --add-interface=virbr4"),
        ((base(tool="iptables-legacy"),), "", "iptables-legacy -I FORWARD -i virbr4 -j ACCEPT && iptables-legacy -I"),
    ],
)
def test_the_remedy_is_in_the_owners_words(chains: tuple[Chain, ...], has: str, command: str) -> None:
    """If his program is there."""
    (note,) = notes(*chains, has=has)
    assert note.partition(" to let it pass: ")[2].startswith(command), note


# ---------------------------------------------------------------- listings


def parsed(*expressions: object, hook: str = "forward") -> Chain:
    chain = {"family": "ip", "table": "t", "name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": "drop"}
    rule = {"family": "ip", "table": "t", "chain": "c", "expr": expressions}
    (found,) = rulesets.parse(json.loads(json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]})))
    return found


def meta(key: str, right: object, op: str = "==") -> object:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


@pytest.mark.parametrize(
    ("expressions", "rule"),
    [
        ([{"counter": None}, {"accept": None}], ACCEPT),
        ([meta("iifname", {"set": ["a", "b*"]}), {"reject": None}], Rule((Condition("iifname", ("a", "b*")),), "drop")),
        ([meta("oifname", "x", "!="), {"drop": None}], Rule((Condition("oifname", ("x",), negated=True),), "drop")),
        ([{"limit": {}}, {"accept": None}], Rule((Condition(""),), "accept")),
        ([{"xt": {"type": "match", "name": "comment"}}, {"accept": None}], ACCEPT),
        ([{"xt": {"type": "target", "name": "REJECT"}}], DROP),
        (
            [{"xt": {"type": "match", "name": "conntrack"}}, {"accept": None}],
            Rule((Condition("ct state", ("established", "related")),), "accept"),
        ),
        ([{"xt": {"type": "match", "name": "conntrack"}}, {"drop": None}], Rule((Condition(""),), "drop")),
        ([{"xt": None}, {"accept": None}], Rule((Condition(""),), "accept")),
        (["notrack"], None),
        (
            [meta("l4proto", {"range": [1, 5]}), {"goto": {"target": "g"}}],
            Rule((Condition("l4proto", ("1-5",)),), "goto", "g"),
        ),
        (
            [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": None}]]}}}],
            Rule((Condition("ct state", ("invalid",)),), "drop"),
        ),
        ([{"vmap": {"key": {"ct": {"key": "state"}}, "data": "@named"}}], None),
        (
            [
                {
                    "match": {
                        "op": "==",
                        "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                        "right": {"prefix": {"addr": "10.0.0.0", "len": 8}},
                    }
                },
                {"accept": None},
            ],
            Rule((Condition("ip saddr", ("10.0.0.0/8",)),), "accept"),
        ),
        (
            [{"match": {"op": "==", "left": {"&": [1, 2]}, "right": {"|": [1]}}}, {"accept": None}],
            Rule((Condition("", ("?",)),), "accept"),
        ),
    ],
)
def test_what_nft_lists_is_read(expressions: list[object], rule: Rule | None) -> None:
    """What is not understood becomes a condition that is never known to hold."""
    assert parsed(*expressions).rules == (() if rule is None else (rule,))


SAVED = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:mine - [0:0]
-A FORWARD -i br+ ! -o eth1 -p tcp -m tcp --dport 60:70 -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j mine
-A FORWARD -s 10.0.0.0/8 -m comment --comment hi -j REJECT --reject-with icmp-port-unreachable
-A mine -m limit --limit 3/min -j RETURN
COMMIT
"""


def test_what_iptables_legacy_saves_is_read() -> None:
    """nft does not show it."""
    asked, forward, own = rulesets.parse_legacy("ip", SAVED)
    assert (asked.hook, asked.policy) == ("input", "accept")
    assert (forward.hook, forward.policy, forward.tool) == ("forward", "drop", "iptables-legacy")
    assert forward.rules == (
        Rule(
            (
                Condition("iifname", ("br*",)),
                Condition("oifname", ("eth1",), negated=True),
                Condition("l4proto", ("tcp",)),
                Condition("tcp dport", ("60-70",)),
            ),
            "accept",
        ),
        Rule((Condition("ct state", ("related", "established")),), "jump", "mine"),
        Rule((Condition("ip saddr", ("10.0.0.0/8",)),), "drop"),
    )
    assert (own.hook, own.rules) == ("", (Rule((Condition(""),), "return"),))
