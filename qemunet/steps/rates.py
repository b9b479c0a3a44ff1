"""Steps about rates and impairments of what leaves by a link, and links led through another one to have these there.

The kernel limits what it sends. What it receives by a link is diverted to an ifb, which sends it back to where it was.
"""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.model.impair import SHARES, Impairment, share_text, text
from qemunet.model.nic import rate_text
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step

HANDLE = "1:"  # of our qdiscs; the kernel's own begin at 8001:
BELOW = "2:"  # of a bucket below an impairment
_ROOT = ("root", "handle", HANDLE)
_BELOW = ("parent", "1:1", "handle", BELOW)
INGRESS = "ffff:"
WAITING = 10_000  # packets that may be under way in an impaired network


@frozen
class Bucket:
    """A token bucket (tc-tbf(8)): bits per second, bytes that may pass at once, bytes that may wait."""

    rate: int
    burst: int
    queue: int


@frozen
class Limit:
    """Limit what the kernel sends by a link of ours; while packets flow, if there `was` a bucket already.

    `below`: the link has an impairment as well, after which packets are limited.
    """

    name: str
    bucket: Bucket
    was: Bucket | None = None
    below: bool = False

    def describe(self) -> str:
        before = f", no longer {rate_text(self.was.rate)}" if self.was else ""
        return f"send at most {rate_text(self.bucket.rate)} by {self.name}{before}"

    def inverse(self, before: Facts) -> Step | None:
        if self.name not in before.links:  # a bucket goes with its link
            return None
        if self.was is None:
            return Unlimit(self.name, self.bucket, self.below)
        return Limit(self.name, self.was, self.bucket, self.below)

    def shell(self) -> tuple[str, ...]:
        sizes = ("burst", f"{self.bucket.burst}b", "limit", f"{self.bucket.queue}b")
        bucket = ("tbf", "rate", rate_text(self.bucket.rate), *sizes)
        return (line("tc", "qdisc", "replace", "dev", self.name, *(_BELOW if self.below else _ROOT), *bucket),)


@frozen
class Unlimit:
    """Take the bucket that there `was` from a link of ours."""

    name: str
    was: Bucket
    below: bool = False

    def describe(self) -> str:
        return f"send by {self.name} as fast as it goes, no longer at {rate_text(self.was.rate)}"

    def inverse(self, before: Facts) -> Step | None:
        return Limit(self.name, self.was, below=self.below) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        return (line("tc", "qdisc", "del", "dev", self.name, *(_BELOW if self.below else _ROOT)),)


@frozen
class Impair:
    """Impair what the kernel sends by a link of ours, which has no bucket yet; or otherwise than it `was`."""

    name: str
    impairment: Impairment
    was: Impairment | None = None

    def describe(self) -> str:
        before = f", no longer {text(self.was)}" if self.was else ""
        return f"impair what is sent by {self.name}: {text(self.impairment)}{before}"

    def inverse(self, before: Facts) -> Step | None:
        if self.name not in before.links:  # it goes with its link
            return None
        if self.was is None:
            return Unimpair(self.name, self.impairment)
        return Impair(self.name, self.was, self.impairment)

    def shell(self) -> tuple[str, ...]:
        one = self.impairment
        delay = ("delay", f"{one.delay}us", *((f"{one.jitter}us",) if one.jitter else ())) if one.delay else ()
        shares = (word for key in SHARES if getattr(one, key) for word in (key, share_text(getattr(one, key))))
        netem = ("netem", "limit", str(WAITING), *delay, *shares)
        return (line("tc", "qdisc", "replace", "dev", self.name, *_ROOT, *netem),)


@frozen
class Unimpair:
    """Take from a link of ours what it `was` impaired by."""

    name: str
    was: Impairment

    def describe(self) -> str:
        return f"impair what is sent by {self.name} no more ({text(self.was)})"

    def inverse(self, before: Facts) -> Step | None:
        return Impair(self.name, self.was) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        return (line("tc", "qdisc", "del", "dev", self.name, *_ROOT),)


@frozen
class Divert:
    """Lead what arrives by a link of ours through the ifb `through`, which limits it and gives it back."""

    name: str
    through: str

    def describe(self) -> str:
        return f"lead what arrives by {self.name} through {self.through}"

    def inverse(self, before: Facts) -> Step | None:
        return Undivert(self.name, self.through) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        everything = ("protocol", "all", "prio", "1", "u32", "match", "u32", "0", "0")
        action = ("action", "mirred", "egress", "redirect", "dev", self.through)
        return (
            line("tc", "qdisc", "add", "dev", self.name, "handle", INGRESS, "ingress"),
            line("tc", "filter", "add", "dev", self.name, "parent", INGRESS, *everything, *action),
        )


@frozen
class Undivert:
    """Let what arrives by a link of ours arrive at once again."""

    name: str
    through: str

    def describe(self) -> str:
        return f"lead what arrives by {self.name} through {self.through} no more"

    def inverse(self, before: Facts) -> Step | None:
        return Divert(self.name, self.through) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        return (line("tc", "qdisc", "del", "dev", self.name, "handle", INGRESS, "ingress"),)
