"""What QEMU is told about cards, and that nothing of it is left when it refuses."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence

import pytest

from qemunet.errors import Failed, Gone, NotFound, QemunetError, Refused, Taken
from qemunet.host import cards
from qemunet.steps import AddCard, AddNetdev, DelCard, DelNetdev, Handle, SetForwards, SetGuestLink, Word

NETDEV = AddNetdev("a", "host-net1", Word(('{"type":"tap","id":"host-net1","fd":"', Handle("a:net1"), '"}')))
MANY = AddNetdev(
    "a",
    "host-net1",
    Word(('{"fds":"', Handle("a:net1"), '","vhostfds":"', Handle("a:net1.vhost0"), ":", Handle("a:net1.vhost1"), '"}')),
)
CARD = AddCard("a", "net1", Word(('{"driver":"e1000","id":"net1","bus":"rp.1","acpi-index":7,"mq":true}',)))
FORWARDS = SetForwards("a", "host-net1", add=("tcp:127.0.0.1:1-:80", "udp::2-:53"), remove=("tcp::3-:22",))
MISSING = Refused("x", "Device not found", "DeviceNotFound")


class FakeMonitor:
    """Remembers what it was told, and answers or raises what it was given for a command, once for each time."""

    def __init__(self, **answers: Sequence[object]) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.given: dict[str, int] = {}
        self.forgotten: list[str] = []
        self.unplugged: list[str] = []
        self.answers = {name.replace("_", "-"): list(several) for name, several in answers.items()}

    def execute(self, command: str, **arguments: object) -> object:
        self.told.append((command, arguments))
        return self._answer(command.replace("_", "-"), {} if command != "human-monitor-command" else "")

    def give(self, fd: int, name: str | None = None) -> str:
        self._answer("give", "")
        name = name or f"fd{len(self.given) + 1}"
        self.given[name] = fd
        return name

    def forget(self, name: str) -> None:
        self.forgotten.append(name)
        self._answer("forget", "")

    def unplug(self, nic: str) -> None:
        self.unplugged.append(nic)
        self._answer("unplug", "")

    def _answer(self, command: str, default: object) -> object:
        several = self.answers.get(command)
        found = several.pop(0) if several else default
        if isinstance(found, Exception):
            raise found
        return found

    def said(self) -> list[str]:
        return [str(arguments["command-line"]) for _, arguments in self.told]


def perform(monitor: FakeMonitor, step: cards.CardStep, handles: Mapping[str, Sequence[int]] | None = None) -> None:
    cards.perform(monitor, step, handles or {})


# ---------------------------------------------------------------- backends


def test_a_backend_names_its_descriptors_as_qemu_knows_them() -> None:
    """Handed over one by one, in the order of the queues."""
    monitor = FakeMonitor()
    handles = {"a:net1": [11, 12], "a:net1.vhost0": [13], "a:net1.vhost1": [14], "b:net1": [15]}
    perform(monitor, MANY, handles)
    assert monitor.given == {"fd1": 11, "fd2": 12, "fd3": 13, "fd4": 14}
    assert monitor.told == [("netdev_add", {"fds": "fd1:fd2", "vhostfds": "fd3:fd4"})]
    assert monitor.forgotten == []


REFUSALS: list[QemunetError] = [
    Refused("netdev_add", "Invalid parameter 'fds'"),
    NotFound("QEMU is gone"),
    Failed("QEMU does not read its monitor"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_what_was_handed_over_for_nothing_is_asked_back(error: QemunetError) -> None:
    """Else the tap would live as long as QEMU."""
    monitor = FakeMonitor(netdev_add=[error])
    with pytest.raises(type(error)) as caught:
        perform(monitor, MANY, {"a:net1": [11, 12], "a:net1.vhost0": [13], "a:net1.vhost1": [14]})
    assert caught.value is error
    assert monitor.forgotten == ["fd1", "fd2", "fd3", "fd4"]


def test_an_id_that_somebody_else_gave_is_taken() -> None:
    """What he has must not be taken back for ours; what was handed over for it is asked back."""
    monitor = FakeMonitor(netdev_add=[Refused("netdev_add", "Duplicate ID 'host-net1' for netdev")])
    with pytest.raises(Taken, match="Duplicate ID") as caught:
        perform(monitor, NETDEV, {"a:net1": [11]})
    assert (caught.value.where, monitor.forgotten) == ("vm.a", ["fd1"])
    with pytest.raises(Taken, match="Duplicate device ID"):
        perform(FakeMonitor(device_add=[Refused("device_add", "Duplicate device ID 'net1'")]), CARD)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("The bootindex 3 has already been used", "boot-index 3 is that of another device"),
        ("a PCI device with acpi-index = 7 already exist", "acpi-index 7 is that of another device"),
    ],
)
def test_an_index_that_another_device_has_is_taken(said: str, what: str) -> None:
    """A disk of the boot order has one without being asked."""
    with pytest.raises(Taken, match=what) as caught:
        perform(FakeMonitor(device_add=[Refused("device_add", said)]), CARD)
    assert caught.value.where == "vm.a"


def test_a_descriptor_that_cannot_be_handed_over_brings_back_those_before_it() -> None:
    """And QEMU is told of no backend."""
    monitor = FakeMonitor(give=["", "", NotFound("QEMU is gone")])
    with pytest.raises(NotFound):
        perform(monitor, MANY, {"a:net1": [11, 12], "a:net1.vhost0": [13], "a:net1.vhost1": [14]})
    assert (monitor.forgotten, monitor.told) == (["fd1", "fd2"], [])


def test_the_first_error_is_the_one_that_is_told() -> None:
    """Asking back goes on after errors."""
    monitor = FakeMonitor(netdev_add=[Refused("netdev_add", "no")], forget=[NotFound("gone"), NotFound("gone")])
    with pytest.raises(Refused, match="no"):
        perform(monitor, MANY, {"a:net1": [11, 12], "a:net1.vhost0": [13], "a:net1.vhost1": [14]})
    assert len(monitor.forgotten) == 4


def test_a_port_that_somebody_has_is_taken_by_name() -> None:
    """QEMU only says that it failed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        words = f"Could not set up host forwarding rule 'tcp:127.0.0.1:{port}-:80'"
        step = AddNetdev("a", "host-net1", Word(('{"type":"user","id":"host-net1"}',)))
        with pytest.raises(Taken, match=rf"tcp 127\.0\.0\.1:{port} is in use by python") as caught:
            perform(FakeMonitor(netdev_add=[Refused("netdev_add", words)]), step)
        assert caught.value.where == "vm.a"
        with pytest.raises(Taken, match="is in use by"):
            perform(
                FakeMonitor(human_monitor_command=[f"{words}\r\n"]),
                SetForwards("a", "n", add=(f"tcp:127.0.0.1:{port}-:80",)),
            )
    with pytest.raises(Refused, match="host forwarding rule"):
        perform(FakeMonitor(netdev_add=[Refused("netdev_add", words)]), step)


# ---------------------------------------------------------------- cards


def test_a_device_of_the_host_that_somebody_has_is_taken() -> None:
    said = "vfio 0000:03:00.1: failed to open /dev/vfio/12: Device or resource busy"
    with pytest.raises(Taken, match="has /dev/vfio/12") as caught:
        perform(FakeMonitor(device_add=[Refused("device_add", said)]), CARD)
    assert caught.value.where == "vm.a"


def test_a_card_is_told_in_json_types() -> None:
    """Not all properties are texts."""
    monitor = FakeMonitor()
    perform(monitor, CARD)
    properties = {"driver": "e1000", "id": "net1", "bus": "rp.1", "acpi-index": 7, "mq": True}
    assert monitor.told == [("device_add", properties)]


def test_a_card_that_qemu_refuses_is_told_in_its_words() -> None:
    with pytest.raises(Refused, match="Bus 'rp7' not found"):
        perform(FakeMonitor(device_add=[Refused("device_add", "Bus 'rp7' not found")]), CARD)


def test_taking_out_waits_for_the_guest() -> None:
    """The backend is closed at once: its card is gone by then."""
    monitor = FakeMonitor()
    perform(monitor, DelCard("a", "net1"))
    perform(monitor, DelNetdev("a", "host-net1"))
    assert (monitor.unplugged, monitor.told) == (["net1"], [("netdev_del", {"id": "host-net1"})])


def test_what_qemu_does_not_have_is_as_good_as_taken_back() -> None:
    """Any other refusal is an error."""
    with pytest.raises(Gone):
        perform(FakeMonitor(netdev_del=[MISSING]), DelNetdev("a", "host-net1"))
    with pytest.raises(Gone):
        perform(FakeMonitor(unplug=[MISSING]), DelCard("a", "net1"))
    with pytest.raises(Refused):
        perform(FakeMonitor(netdev_del=[Refused("netdev_del", "busy")]), DelNetdev("a", "host-net1"))


def test_what_is_missing_on_the_way_there_is_an_error() -> None:
    """Only an undo may find nothing."""
    with pytest.raises(Refused):
        perform(FakeMonitor(set_link=[MISSING]), SetGuestLink("a", "net1", up=False))


def test_a_cable_is_left_as_long_as_the_guest_needs_to_see_it() -> None:
    monitor = FakeMonitor()
    before = time.monotonic()
    perform(monitor, SetGuestLink("a", "net1", up=False, was=True, hold=0.05))
    assert time.monotonic() - before >= 0.05
    assert monitor.told == [("set_link", {"name": "net1", "up": False})]


# ---------------------------------------------------------------- forwards


class Usernet(FakeMonitor):
    """A QEMU with forwards that are open, `rules`; those in `held` cannot be had."""

    def __init__(self, *rules: str, held: Sequence[str] = ()) -> None:
        super().__init__()
        self.rules = list(rules)
        self.held = held

    def execute(self, command: str, **arguments: object) -> object:
        self.told.append((command, arguments))
        verb, netdev, rule = str(arguments["command-line"]).split()
        assert (command, netdev) == ("human-monitor-command", "host-net1")
        if verb == "hostfwd_add":
            port = rule.rpartition("-")[0]
            if rule in self.held or any(one.startswith(f"{port}-") for one in self.rules):
                return f"Could not set up host forwarding rule '{rule}'\r\n"
            self.rules.append(rule)
            return ""
        known = [one for one in self.rules if one.rpartition("-")[0] == rule]
        self.rules = [one for one in self.rules if one not in known]
        return f"host forwarding rule for {rule} {'removed' if known else 'not found'}\r\n"


def test_ports_are_closed_before_others_are_opened() -> None:
    """One that leads to another port of the guest now is both. To close one, only the host's side is named."""
    monitor = Usernet("tcp::3-:22", "tcp::9-:9")
    perform(monitor, FORWARDS)
    assert monitor.said() == [
        "hostfwd_remove host-net1 tcp::3",
        "hostfwd_add host-net1 tcp:127.0.0.1:1-:80",
        "hostfwd_add host-net1 udp::2-:53",
    ]
    assert monitor.rules == ["tcp::9-:9", "tcp:127.0.0.1:1-:80", "udp::2-:53"]
    perform(monitor, SetForwards("a", "host-net1", add=("udp::2-:54",), remove=("udp::2-:53",)))
    assert monitor.rules[-1] == "udp::2-:54"


def test_a_port_that_was_not_open_is_closed() -> None:
    """Somebody may have closed it by the other monitor."""
    monitor = Usernet()
    perform(monitor, SetForwards("a", "host-net1", remove=("tcp::3-:22",)))
    assert len(monitor.told) == 1


@pytest.mark.parametrize("there", [(), ("tcp::3-:22",), ("tcp:127.0.0.1:1-:80",), ("tcp::3-:22", "udp::2-:53")])
def test_a_step_that_was_half_done_can_be_done_and_taken_back(there: tuple[str, ...]) -> None:
    """Whoever did the first half may have been killed; no journal says which half."""
    monitor = Usernet(*there)
    perform(monitor, FORWARDS)
    assert monitor.rules == ["tcp:127.0.0.1:1-:80", "udp::2-:53"]
    monitor = Usernet(*there)
    perform(monitor, SetForwards("a", "host-net1", add=FORWARDS.remove, remove=FORWARDS.add))
    assert monitor.rules == ["tcp::3-:22"]


def test_if_one_port_cannot_be_had_the_others_are_as_before() -> None:
    """In the opposite order."""
    monitor = Usernet("tcp::3-:22", held=["udp::2-:53"])
    with pytest.raises(Failed, match="QEMU refused to add the forward udp::2-:53: Could not set up"):
        perform(monitor, FORWARDS)
    assert monitor.rules == ["tcp::3-:22"]


def test_a_way_back_that_fails_does_not_hide_why_it_was_taken() -> None:
    removed = "host forwarding rule for x removed\r\n"
    lost = NotFound("QEMU is gone")
    refusal = "invalid device specified"
    monitor = FakeMonitor(human_monitor_command=[removed, "", refusal, refusal, lost, lost])
    with pytest.raises(Failed, match=refusal):
        perform(monitor, FORWARDS)
    assert len(monitor.told) == 6


@pytest.mark.parametrize(
    "said",
    [
        "unrecognized netdev id 'host-net1'",
        "invalid device specified",
        "Invalid host forwarding rule 'x' (Bad host port)",
    ],
)
@pytest.mark.parametrize(
    "step", [SetForwards("a", "n", add=("tcp::3-:22",)), SetForwards("a", "n", remove=("tcp::3-:22",))]
)
def test_whatever_else_qemu_says_of_a_forward_is_a_refusal(said: str, step: SetForwards) -> None:
    """Its human monitor has no error codes."""
    with pytest.raises(Failed) as caught:
        perform(FakeMonitor(human_monitor_command=[said] * 3), step)
    assert said in str(caught.value)
