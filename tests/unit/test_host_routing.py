"""Addresses and routes as the kernel is told of them."""

from __future__ import annotations

import itertools
import struct
import time

import pytest

from qemunet.host import netlink, routing
from qemunet.model.routing import IpAddress

_CACHEINFO = 6


def test_an_address_is_never_preferred_for_longer_than_it_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a second is over between two looks at the clock: the kernel would refuse it."""
    clock = itertools.count(1000)
    monkeypatch.setattr(time, "clock_gettime", lambda _which: float(next(clock)))
    body = routing.address_body(IpAddress("192.0.2.5/24", valid=37000, preferred=37000), 1)
    preferred, valid = struct.unpack_from("=II", netlink.attributes(body[8:])[_CACHEINFO])
    assert preferred == valid
