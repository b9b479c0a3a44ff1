"""Impairments in a lab file: what becomes of them, what is written back, and what a host may lack for them."""

from __future__ import annotations

import pytest

from qemunet.config.write import lab_toml
from qemunet.errors import ConfigError, HostLacks
from qemunet.frozen import replace
from qemunet.model.impair import Impairment
from tests.unit.config_host import FACTS, FILE, lab

CARD = '[network.lab]\nmode = "private"\n[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nnetwork = "lab"\nimpair = {}\n'


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('{ delay = "20ms" }', Impairment(delay=20_000)),
        ('{ delay = "1.5s", jitter = "100us" }', Impairment(1_500_000, 100)),
        ('{ loss = "1%", duplicate = "0.05%" }', Impairment(loss=10_000, duplicate=500)),
        ('{ corrupt = "100%" }', Impairment(corrupt=1_000_000)),
        ('{ delay = "1ms", reorder = "25%" }', Impairment(delay=1000, reorder=250_000)),
        ('{ delay = "1ms", loss = "0%" }', Impairment(delay=1000)),
    ],
)
def test_a_card_is_impaired_as_it_says(written: str, found: Impairment) -> None:
    """And reads back from what is written."""
    resolved = lab(CARD.format(written))
    assert resolved.vms[0].nics[0].impair == found
    assert lab(lab_toml(resolved)).vms == resolved.vms


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"20ms"', "a table belongs here, not text"),
        ("{}", "it says nothing"),
        ('{ delay = "0ms" }', "it says nothing"),
        ("{ delay = 20 }", "delay is a time without a unit"),
        ('{ delay = "20" }', 'delay: "20" is no time'),
        ('{ delay = "2h" }', 'delay: "2h" is no time'),
        ('{ delay = "61s" }', "delay: 61s is more than a minute"),
        ('{ delay = "1ms", jitter = "2ms" }', "jitter is more than the delay"),
        ('{ reorder = "5%" }', "without a delay no packet is before another one"),
        ("{ loss = 1 }", "loss is a share without a percent sign"),
        ('{ loss = "101%" }', 'loss: "101%" is no share of the packets'),
        ('{ loss = "0.00001%" }', 'loss: "0.00001%" is no share of the packets'),
        ('{ latency = "1ms" }', 'unknown key "latency"'),
    ],
)
def test_what_is_no_impairment_is_told(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lab(CARD.format(written))
    assert said in str(caught.value)
    assert caught.value.where == f"{FILE}: vm.a.nic[0].impair"


def test_what_a_kernel_lacks_for_it_is_told_at_once() -> None:
    """One of the two ways takes a diversion; a card without an impairment does without all of that."""
    unable = replace(FACTS, shaping_lacks=frozenset({"sch_netem", "ifb", "sch_tbf"}))
    with pytest.raises(HostLacks) as caught:
        lab(CARD.format('{ loss = "1%" }'), unable)
    what = "in the kernel, to impair what passes a card"
    assert str(caught.value) == f"this host lacks sch_netem {what}; ifb {what}"
    assert lab(CARD.replace("impair = {}\n", ""), unable)
