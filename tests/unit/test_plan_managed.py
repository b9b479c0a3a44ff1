"""Networks that the host serves, in a plan: made once, shared by labs that want them equal, with what they need."""

from __future__ import annotations

import pytest

from qemunet import plan
from qemunet.config.write import net_toml
from qemunet.errors import Taken
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.plan import links
from qemunet.steps import Claim, LoadTable, Part, Reserve, StartDaemon

from .config_host import FACTS, lab

HOST = replace(
    FACTS,
    programs={**FACTS.programs, "dnsmasq": "/usr/sbin/dnsmasq"},
    addresses={"eth1": ("192.0.2.2/24",)},
    sysctls={"net.ipv4.conf.eth1.forwarding": "0"},
)
NAT = '[network.lan]\nmode = "nat"\naddress = ["192.168.50.1/24"]\n'
ADDRESS = 'ip = ["192.168.50.{}/24"]\n'


def card(vm: str, last: int = 0, network: str = "lan") -> str:
    text = f'[vm.{vm}]\nboot.kernel = "vmlinuz"\n[[vm.{vm}.nic]]\nnetwork = "{network}"\n'
    return text + (ADDRESS.format(last) if last else "")


def with_up(found: Lab, facts: Facts = HOST) -> Facts:
    """The host on which somebody has made the networks of a lab, with what they need."""
    made = plan.build(found, facts).shared
    return replace(
        facts,
        scopes={part.scope: part.fingerprint for part in made},
        networks={network.name: net_toml(found, network) for network in found.networks},
    )


def scopes(parts: tuple[Part, ...]) -> list[str]:
    return [part.scope for part in parts]


def uses(parts: tuple[Part, ...]) -> list[tuple[str, str]]:
    """Who has a place on what."""
    steps = [step for part in parts for step in part.steps if isinstance(step, Claim) and "/users/" in step.path]
    return [(step.path.removeprefix("/run/qemunet/"), step.by) for step in steps]


def test_a_second_lab_with_an_equal_network_shares_it() -> None:
    """Its cards are its own, and the network hears of them; nothing is made again."""
    first, second = lab(NAT + card("a", 9), HOST), lab(NAT + card("b", 8), HOST)
    assert links.network_fingerprint(first.networks[0]) == links.network_fingerprint(second.networks[0])
    found = plan.build(second, with_up(first))
    assert found.shared == ()
    assert uses(found.own) == [("net/lan/users/b.net0", "vm/b")]
    (told,) = [step for part in found.own for step in part.steps if isinstance(step, Reserve)]
    assert (told.path, told.text.split(",")[1:]) == ("hosts/b.net0", ["192.168.50.8", "b\n"])


def test_an_automatic_address_is_that_which_the_network_has() -> None:
    """Though by now it is in use."""
    text = NAT.replace('["192.168.50.1/24"]', '"auto"')
    first = lab(text + card("a"), HOST)
    facts = with_up(first)
    address = first.networks[0].switch.addresses[0]  # type: ignore[union-attr]
    facts = replace(facts, addresses={**facts.addresses, "qn-lan": (address,)})
    assert plan.build(lab(text + card("b"), facts), facts).shared == ()


@pytest.mark.parametrize(
    "other",
    [
        NAT.replace("nat", "routed"),
        NAT.replace("50.1/24", "50.2/24"),
        NAT + "dhcp = false\n",
        NAT + 'dns.domain = "x.test"\n',
        NAT + 'forward = ["tcp::8080:192.168.50.9:80"]\n',
        NAT + 'host-services = ["icmp"]\n',
        NAT + "mtu = 1400\n",
    ],
)
def test_a_network_that_is_up_with_other_settings_is_not_shared(other: str) -> None:
    with pytest.raises(Taken, match='network "lan" is up with other settings'):
        plan.build(lab(other + card("b"), HOST), with_up(lab(NAT + card("a"), HOST)))


def test_a_way_out_is_opened_once_for_all_networks_that_take_it() -> None:
    """Each of them has a place on it, and no vm has."""
    two = NAT + NAT.replace("lan", "dmz").replace(".50.", ".60.")
    found = plan.build(lab(two + card("a") + card("b", network="dmz"), HOST), HOST)
    assert scopes(found.shared) == ["host/forward-eth1", "net/lan", "net/dmz"]
    assert uses(found.shared) == [
        ("host/forward-eth1/users/lan.network", "net/lan"),
        ("host/forward-eth1/users/dmz.network", "net/dmz"),
    ]
    assert uses(found.own) == [("net/lan/users/a.net0", "vm/a"), ("net/dmz/users/b.net0", "vm/b")]


def test_a_second_network_takes_a_place_on_a_way_that_is_open() -> None:
    """So that it stays when the first one goes."""
    facts = replace(with_up(lab(NAT + card("a"), HOST)), sysctls={"net.ipv4.conf.eth1.forwarding": "1"})
    other = lab(NAT.replace("lan", "dmz").replace(".50.", ".60.") + card("b", network="dmz"), facts)
    found = plan.build(other, facts)
    assert scopes(found.shared) == ["net/dmz"]
    assert uses(found.shared) == [("host/forward-eth1/users/dmz.network", "net/dmz")]


def test_rules_are_there_before_the_network_and_services_after_it() -> None:
    """No packet is earlier than the rules, and dnsmasq looks for its interface."""
    (part,) = [one for one in plan.build(lab(NAT + card("a"), HOST), HOST).shared if one.scope == "net/lan"]
    kinds = [type(step).__name__ for step in part.steps]
    assert kinds.index("LoadTable") < kinds.index("AddLink") < kinds.index("SetLink") < kinds.index("StartDaemon")


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [("private", set()), ("isolated", {LoadTable}), ("open", {StartDaemon}), ("routed", {LoadTable, StartDaemon})],
)
def test_each_mode_has_what_it_needs(mode: str, kinds: set[type]) -> None:
    """An isolated network serves nothing by itself, and its guests are kept in all the same."""
    text = NAT.replace("nat", mode) if mode != "private" else '[network.lan]\nmode = "private"\n'
    found = plan.build(lab(text + card("a"), HOST), HOST).shared
    assert {type(step) for part in found for step in part.steps} & {LoadTable, StartDaemon} == kinds
