"""Which steps give a card its rate, change it and take it away, and what the host has to have for it."""

from __future__ import annotations

import pytest

from qemunet.errors import HostLacks
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.model.nic import MacvtapBackend, MacvtapMode, Nic, OnBridge, Rate, TapBackend, UserBackend
from qemunet.model.vm import Accel, Firmware, FirmwareBoot, Machine, NicBus, Vm
from qemunet.plan import rates
from qemunet.steps import AddLink, Bucket, DelLink, Divert, IfbLink, Limit, SetLink, SetSysctl, Step, Undivert, Unlimit
from qemunet.testing.fake import FakeHost
from tests.unit.config_host import FACTS, lab

TAP = TapBackend("t0", 1500, OnBridge("br0"))
MACVTAP = MacvtapBackend("mv0", "eth1", MacvtapMode.BRIDGE, 1500)
SLOW, FAST = 8_000_000, 1_000_000_000
IFB = "qn-a-net0.ifb"
MADE = [AddLink, SetSysctl, Limit, SetLink, Divert]


def nic(rate: Rate, backend: TapBackend | MacvtapBackend | UserBackend = TAP) -> Nic:
    return Nic("net0", "virtio-net-pci", "52:54:00:00:00:01", backend, rate=rate)


def guest(*nics: Nic) -> Vm:
    machine = Machine("q35", "q35", NicBus.ROOT_PORTS, 0, "host", "")
    return Vm("a", machine, 1 << 27, 1, Accel.TCG, FirmwareBoot(), Firmware.BIOS, (), nics)


def change(old: Nic, new: Nic, facts: Facts = FACTS) -> list[Step]:
    return list(rates.change(old, new, guest(new), facts))


def limit(one: Nic) -> list[Step]:
    return list(rates.limit(guest(one), one, FACTS))


@pytest.mark.parametrize(
    ("backend", "direct", "diverted"), [(TAP, Rate(SLOW), Rate(None, SLOW)), (MACVTAP, Rate(None, SLOW), Rate(SLOW))]
)
def test_a_tap_and_a_macvtap_are_limited_from_different_ends(
    backend: TapBackend | MacvtapBackend, direct: Rate, diverted: Rate
) -> None:
    """By a tap the kernel sends what reaches the guest, by a macvtap what the guest sends; the rest takes an ifb."""
    (step,) = limit(nic(direct, backend))
    assert isinstance(step, Limit)
    assert step.name == backend.ifname
    steps = limit(nic(diverted, backend))
    assert [type(one) for one in steps] == MADE
    assert steps[-1] == Divert(backend.ifname, IFB)


def test_an_ifb_is_ours_like_every_link() -> None:
    """It has a mark of its own, never asks for an IPv6 address, and is up before anything is led through it."""
    made, quiet, bucket, up, _ = limit(nic(Rate(None, SLOW)))
    assert isinstance(made, AddLink)
    assert made.link == IfbLink("fe:54:00:00:00:01", 1500)
    assert (made.name, made.mark.scope, made.mark.part) == (IFB, "vm/a", "net0.ifb")
    assert quiet == SetSysctl("net.ipv6.conf.qn-a-net0/ifb.disable_ipv6", "1")
    assert isinstance(bucket, Limit)
    assert (bucket.name, up) == (IFB, SetLink(IFB, up=True))


@pytest.mark.parametrize("backend", [TAP, MACVTAP, UserBackend()])
def test_without_a_rate_nothing_is_done(backend: TapBackend | MacvtapBackend | UserBackend) -> None:
    one = nic(Rate(), backend)
    assert limit(one) == change(one, one) == []


@pytest.mark.parametrize(("rate", "mtu"), [(8_000, 1500), (8_000, 65535), (SLOW, 9000), (FAST, 1500), (10**11, 68)])
def test_a_bucket_has_room_for_the_largest_packet_and_fits_the_kernels_numbers(rate: int, mtu: int) -> None:
    """A larger packet would be dropped for ever."""
    bucket = rates.bucket(rate, mtu)
    assert bucket is not None
    assert mtu + 18 < bucket.burst < bucket.queue < 2**32
    assert bucket.burst * 8 >= rate / 100


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Rate(), Rate(SLOW, SLOW), [Limit, *MADE]),
        (Rate(SLOW, SLOW), Rate(SLOW, SLOW), []),
        (Rate(SLOW, SLOW), Rate(FAST, SLOW), [Limit]),
        (Rate(SLOW, SLOW), Rate(FAST, FAST), [Limit, Limit]),
        (Rate(SLOW, SLOW), Rate(None, FAST), [Unlimit, Limit]),
        (Rate(SLOW, SLOW), Rate(FAST), [Limit, Undivert, DelLink]),
        (Rate(SLOW, SLOW), Rate(), [Unlimit, Undivert, DelLink]),
        (Rate(SLOW), Rate(None, SLOW), [Unlimit, *MADE]),
    ],
)
def test_a_change_does_no_more_than_it_takes(old: Rate, new: Rate, expected: list[type]) -> None:
    """A bucket that is there is changed; an ifb goes last, because nothing would bring it back."""
    steps = change(nic(old), nic(new))
    assert [type(step) for step in steps] == expected


def test_a_change_knows_what_there_was() -> None:
    """So that it can be taken back."""
    (step,) = change(nic(Rate(SLOW)), nic(Rate(FAST)))
    assert step == Limit("t0", rates.bucket(FAST, 1500), rates.bucket(SLOW, 1500))  # type: ignore[arg-type]


def test_a_card_that_moves_to_larger_packets_gets_larger_buckets() -> None:
    """With its old rate."""
    moved = nic(Rate(SLOW), replace(TAP, mtu=9000))
    assert change(nic(Rate(SLOW)), moved) == [Limit("t0", Bucket(SLOW, 18036, 68036), Bucket(SLOW, 15180, 65180))]


@pytest.mark.parametrize("backend", [TAP, MACVTAP])
@pytest.mark.parametrize("old", [Rate(), Rate(SLOW), Rate(None, SLOW), Rate(SLOW, FAST)])
@pytest.mark.parametrize("new", [Rate(), Rate(FAST), Rate(None, FAST), Rate(FAST, SLOW)])
def test_the_inverses_of_a_change_lead_back(backend: TapBackend | MacvtapBackend, old: Rate, new: Rate) -> None:
    """From wherever it stopped, newest first."""
    was, now = nic(old, backend), nic(new, backend)
    host = FakeHost(replace(FACTS, links={**FACTS.links, backend.ifname: replace(FACTS.links["eth1"], group=1 << 30)}))
    for step in change(replace(was, rate=Rate()), was):
        host.perform(step)
    before, picture = host.photograph(Wanted(links=rates.links_of(guest(was), was))), host.picture()
    steps = change(was, now)
    for number in range(len(steps)):
        undo = []
        for step in steps[:number]:
            undo += [back for back in [step.inverse(before)] if back]
            host.perform(step)
        for back in reversed(undo):
            host.perform(back)
        assert host.picture() == picture


def test_what_has_no_host_side_has_no_links() -> None:
    """And a card that has one: itself, and its ifb."""
    assert rates.links_of(guest(), nic(Rate(), UserBackend())) == frozenset()
    assert rates.links_of(guest(), nic(Rate())) == {"t0", IFB}


# ---------------------------------------------------------------- what the host has

CARD = '[vm.a]\n[[vm.a.nic]]\nbridge = "br9"\nrate = {{ {} }}\n'
NOTHING = frozenset({"sch_tbf", "ifb", "sch_ingress", "cls_u32", "act_mirred"})


@pytest.mark.parametrize(
    ("rate", "lacks"),
    [('in = "1mbit"', {"sch_tbf"}), ('out = "1mbit"', NOTHING)],
)
def test_a_kernel_that_cannot_is_told_all_at_once(rate: str, lacks: set[str]) -> None:
    """Of what this rate needs; what is only looked at may lack it."""
    facts = replace(FACTS, shaping_lacks=NOTHING)
    with pytest.raises(HostLacks) as caught:
        lab(CARD.format(rate), facts)
    assert {one.partition(" in the kernel")[0] for one in caught.value.lacks} == lacks
    assert "vm.a.nic[0].rate" in caught.value.hint
    assert lab(CARD.format(rate), facts, strict=False).vms[0].nics[0].rate != Rate()


def test_a_rate_of_a_lab_is_as_the_guest_sees_it() -> None:
    """``in`` is what reaches it."""
    assert lab(CARD.format('in = "1mbit", out = "2mbps"')).vms[0].nics[0].rate == Rate(1_000_000, 16_000_000)
