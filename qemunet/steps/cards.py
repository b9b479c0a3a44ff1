"""Steps about the cards of a guest that runs: backends and devices that come and go, cables, forwards."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step
    from qemunet.steps.words import Word


@frozen
class AddNetdev:
    """Give QEMU a card's backend: `properties` is the JSON of ``netdev_add``, descriptors by their handles.

    `numbered`: of these it is told the numbers, since it would look for their names where it does not know them.
    """

    vm: str
    netdev: str
    properties: Word
    numbered: bool = False

    def describe(self) -> str:
        return f"give {self.vm} the backend {self.netdev}"

    def inverse(self, before: Facts) -> Step | None:
        return DelNetdev(self.vm, self.netdev, self.numbered)

    def shell(self) -> tuple[str, ...]:
        return ()  # a guest that runs is no business of a script that starts it


@frozen
class DelNetdev:
    """Have QEMU close a card's backend. Under a card that is still there it would cut that off for ever.

    `numbered`: and the sockets that it was given for that, if it has never used them.
    """

    vm: str
    netdev: str
    numbered: bool = False

    def describe(self) -> str:
        return f"take the backend {self.netdev} from {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class AddChardev:
    """Have QEMU connect to the socket `path`, by which a card's backend of the id `netdev` will reach its program."""

    vm: str
    netdev: str
    path: str

    def describe(self) -> str:
        return f"connect {self.vm} to {self.path} for the backend {self.netdev}"

    def inverse(self, before: Facts) -> Step | None:
        return DelChardev(self.vm, self.netdev)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class DelChardev:
    """Have QEMU hang up; with the backend that uses the connection, it has done so itself."""

    vm: str
    netdev: str

    def describe(self) -> str:
        return f"take the connection of the backend {self.netdev} from {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class AddCard:
    """Plug a card in: `properties` is the JSON of ``device_add``."""

    vm: str
    nic: str
    properties: Word

    def describe(self) -> str:
        return f"plug {self.nic} into {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return DelCard(self.vm, self.nic)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class DelCard:
    """Ask the guest for a card and wait until it has let go of it."""

    vm: str
    nic: str

    def describe(self) -> str:
        return f"unplug {self.nic} from {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class SetGuestLink:
    """Plug a card's cable in or out, as the guest sees it; `was`: how it is, if that is to be taken back.

    It is left so for `hold` seconds, or a guest that is told of both at once would notice neither.
    """

    vm: str
    nic: str
    up: bool
    was: bool | None = None
    hold: float = 0.0

    def describe(self) -> str:
        return f"set the cable of {self.vm}.{self.nic} {'in' if self.up else 'out'}"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.was in (None, self.up) else SetGuestLink(self.vm, self.nic, self.was is True)

    def shell(self) -> tuple[str, ...]:
        return ()  # part of the line that starts QEMU


@frozen
class SetCarrier:
    """Plug a tap's cable in or out as the host sees it (IFLA_CARRIER); `was`: how it is, for the way back."""

    name: str
    on: bool
    was: bool | None = None

    def describe(self) -> str:
        return f"set the carrier of {self.name} {'on' if self.on else 'off'}"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.was in (None, self.on) else SetCarrier(self.name, self.was is True)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "set", "dev", self.name, "carrier", "on" if self.on else "off"),)


@frozen
class SetForwards:
    """Open and close ports of the host that lead into a guest in user mode, in the words of ``hostfwd_add``."""

    vm: str
    netdev: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def describe(self) -> str:
        words = [f"open {rule}" for rule in self.add] + [f"close {rule}" for rule in self.remove]
        return f"{', '.join(words)} of {self.netdev} of {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return SetForwards(self.vm, self.netdev, add=self.remove, remove=self.add)

    def shell(self) -> tuple[str, ...]:
        return ()
