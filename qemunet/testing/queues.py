"""What is done to what links send, on a host in memory: buckets, impairments, and links led through others."""

from __future__ import annotations

import errno
import typing
from abc import ABC, abstractmethod

from qemunet.errors import Taken
from qemunet.host.links import OURS, Vanished
from qemunet.steps import Bucket, Divert, Impair, Impairment, Limit, Undivert, Unimpair, Unlimit
from qemunet.testing.kernel import refused

if typing.TYPE_CHECKING:
    from qemunet.facts import LinkFact

    QueueStep = Limit | Unlimit | Impair | Unimpair | Divert | Undivert


class FakeQueues(ABC):
    """What a network in memory knows of queues."""

    @abstractmethod
    def get(self, name: str) -> LinkFact:
        """Return the link of that name; raises Vanished."""

    def begin_queues(self) -> None:
        """Begin with none."""
        self.buckets: dict[str, Bucket] = {}  # by interface
        self.impaired: dict[str, Impairment] = {}  # likewise
        self.diverted: dict[str, str] = {}  # interface to the ifb that has what arrives

    def forget_queues(self, name: str) -> None:
        """Let go of what was on an interface that is gone."""
        for known in (self.buckets, self.impaired, self.diverted):
            known.pop(name, None)

    def rate_step(self, step: QueueStep) -> None:
        """Do a step about rates and impairments."""
        name = self._get_own(step.name).name
        match step:
            case Limit():
                self._limit(name, step)
            case Impair(impairment=impairment):
                if name in self.buckets and name not in self.impaired:
                    raise refused(errno.EINVAL)
                self.impaired[name] = impairment
            case Unimpair():
                if self.impaired.pop(name, None) is None:
                    raise Vanished(errno.ENOENT, f"{name} is not impaired")
                self.buckets.pop(name, None)
            case Unlimit():
                if self.buckets.pop(name, None) is None:
                    raise Vanished(errno.ENOENT, f"{name} has no bucket")
            case Divert(through=through):
                other = self._get_own(through).name
                if name in self.diverted:
                    raise Taken(f"somebody has a qdisc for what arrives by {name}")
                self.diverted[name] = other
            case Undivert():
                if self.diverted.pop(name, None) is None:
                    raise Vanished(errno.ENOENT, f"{name} is not diverted")
            case _:
                typing.assert_never(step)

    def _get_own(self, name: str) -> LinkFact:
        link = self.get(name)
        if link.group < OURS:
            raise Vanished(errno.ENODEV, f"there is no interface {name} of ours")
        return link

    def _limit(self, name: str, step: Limit) -> None:
        if step.below != (name in self.impaired):
            raise refused(errno.ENOENT if step.below else errno.EINVAL)
        self.buckets[name] = step.bucket
