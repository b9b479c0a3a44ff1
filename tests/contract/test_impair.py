"""What every host promises about impairments, and buckets below them."""

from __future__ import annotations

import errno
import json

import pytest

from qemunet.errors import Gone
from qemunet.host import qdiscs
from qemunet.steps import Bucket, DelLink, Impair, Impairment, Limit, Mark, OpenTap, Unimpair, Unlimit
from qemunet.testing.fake import FakeHost
from tests.dump import program

from .conftest import World, refused

TAP = OpenTap("a:net0", "qn-a", Mark("vm/a", "net0", 0x4000_0007), "fe:54:00:00:00:01", 1500, "br0")
BAD, WORSE = Impairment(delay=20_000), Impairment(delay=20_000, loss=10_000)
SLOW = Bucket(8_000_000, 20_000, 100_000)


@pytest.fixture(autouse=True)
def able(world: World) -> None:
    """Skip what this kernel cannot do."""
    if not isinstance(world.host, FakeHost) and (lacks := qdiscs.lacking() | qdiscs.lacking_netem()):
        pytest.skip(f"this kernel has no {', '.join(sorted(lacks))}")


def kinds(world: World) -> list[str]:
    """What is done to what the tap sends, from the outside in."""
    if isinstance(world.host, FakeHost):
        known = (("netem", world.host.impaired), ("tbf", world.host.buckets))
        return [kind for kind, found in known if "qn-a" in found]
    shown = json.loads(program("tc", "-j", "qdisc", "show", "dev", "qn-a"))
    return [one["kind"] for one in shown if one["handle"] in ("1:", "2:")]


def test_an_impairment_comes_changes_and_goes_and_a_bucket_below_it(world: World) -> None:
    for step, found in (
        (Impair("qn-a", BAD), ["netem"]),
        (Limit("qn-a", SLOW, below=True), ["netem", "tbf"]),
        (Impair("qn-a", WORSE, BAD), ["netem", "tbf"]),
        (Unlimit("qn-a", SLOW, below=True), ["netem"]),
        (Unimpair("qn-a", WORSE), []),
    ):
        world.do(*([] if world.link("qn-a") else [TAP]), step)
        assert kinds(world) == found
    with pytest.raises(Gone):
        world.do(Unimpair("qn-a", WORSE))
    world.do(DelLink("qn-a", TAP.mark))


def test_an_impairment_is_no_bucket_and_a_bucket_no_impairment(world: World) -> None:
    """Which of them is outside has to be said."""
    world.do(TAP)
    with refused(errno.ENOENT):
        world.do(Limit("qn-a", SLOW, below=True))
    world.do(Limit("qn-a", SLOW))
    with refused(errno.EINVAL):
        world.do(Impair("qn-a", BAD))
    world.do(Unlimit("qn-a", SLOW), Impair("qn-a", BAD))
    with refused(errno.EINVAL):
        world.do(Limit("qn-a", SLOW))


def test_nothing_of_somebody_elses_is_impaired(world: World) -> None:
    with pytest.raises(Gone):
        world.do(Impair("eth1", BAD))
