"""Photographs as JSON: what is written is what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemunet.facts import (
    Facts,
    FileFact,
    GuestFact,
    LinkFact,
    NodeFact,
    PciFact,
    RouteFact,
    SocketFact,
    TunFact,
    WireFact,
)
from qemunet.frozen import fields
from qemunet.model.routing import Carried, IpAddress, IpRoute, Way
from qemunet.testing import facts_json

FACTS = Facts(
    runtime="/run/qemunet",
    machine_id="m",
    uid=0,
    can_switch_user=True,
    links={"br0": LinkFact(2, "br0", "bridge", "52:54:00:00:00:01", 1500, up=True, altnames=("a", "b"))},
    addresses={"br0": ("10.0.0.1/24",)},
    routes=(RouteFact("default", "br0", "10.0.0.2"), RouteFact("10.0.0.0/24", "br0")),
    macs_on_bridge={"br0": frozenset({"52:54:00:00:00:02"})},
    files={"/x": FileFact("/x", 1, regular=True, readable=False, backing="/y")},
    users={"nobody": (65534, 65534)},
    wires=(WireFact(("br0", "br1"), ("x", "y")),),
    kvm_gid=104,
    guest=GuestFact("/k", "/i", "a=b"),
    places={"one": Facts("/run/qemunet", "", 0, can_switch_user=False, netns=frozenset({"one"}))},
)


def test_every_kind_of_field_survives() -> None:
    """Tuples, sets, mappings and what may be missing."""
    assert facts_json.loads(facts_json.dumps(FACTS)) == FACTS


def values(kind: type, *, without: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Any value of a frozen type: of each field what its type allows, of some the default."""
    hints = facts_json.types_of(kind)
    names = [name for name in fields(kind) if name not in without]
    return st.builds(kind, **{name: st.deferred(lambda hint=hints[name]: st.from_type(hint)) for name in names})


for value_type in (
    TunFact,
    SocketFact,
    NodeFact,
    PciFact,
    LinkFact,
    RouteFact,
    WireFact,
    FileFact,
    GuestFact,
    IpAddress,
    Way,
    IpRoute,
    Carried,
):
    st.register_type_strategy(value_type, values(value_type))


st.register_type_strategy(Facts, st.just(FACTS))  # in a photograph, of a namespace


@settings(suppress_health_check=[HealthCheck.too_slow])  # a photograph is large, and the machine may be busy
@given(values(Facts, without=("carried", "places")))
def test_any_photograph_survives(facts: Facts) -> None:
    """Whatever a host may look like."""
    assert facts_json.loads(facts_json.dumps(facts)) == facts


@given(st.builds(Carried, addresses=st.tuples(values(IpAddress)), routes=st.tuples(values(IpRoute)), above=st.tuples()))
def test_whatever_an_interface_carries_survives(carried: Carried) -> None:
    """An address and a route of any kind."""
    facts = Facts("/r", "m", 0, can_switch_user=True, carried={"eth0": carried})
    assert facts_json.loads(facts_json.dumps(facts)) == facts


def test_what_is_as_always_is_left_out() -> None:
    """A test's photograph shows what it is about."""
    assert json.loads(facts_json.dumps(Facts("/r", "m", 1000, can_switch_user=False))) == {
        "runtime": "/r",
        "machine_id": "m",
        "uid": 1000,
        "can_switch_user": False,
    }


def test_a_misspelt_field_is_an_error() -> None:
    """Or a test would be about nothing."""
    with pytest.raises(TypeError, match="Facts has no link"):
        facts_json.loads('{"runtime": "/r", "machine_id": "m", "uid": 0, "can_switch_user": true, "link": {}}')
