"""What is known of a card comes from whoever knows best: the guest, then the host's neighbours, then the lab file."""

from __future__ import annotations

from qemunet.live.agent import GuestCard
from qemunet.live.sight import combined
from qemunet.records import NicRecord

ONE = NicRecord("net0", "tap", "virtio-net-pci", "52:54:00:00:00:01", "up", "qn-a-net0", ips=("10.0.0.1/24",))
TWO = NicRecord("net1", "user", "virtio-net-pci", "52:54:00:00:00:02", "up")
SEEN = {ONE.mac: ("10.0.0.9", "fd00::9")}


def told(mac: str, *addresses: str) -> dict[str, GuestCard]:
    return {mac: GuestCard("eth7", mac, carrier=True, addresses=addresses)}


def test_without_anything_better_there_is_what_the_file_says() -> None:
    """A card without addresses in the file has none."""
    known = {mac: one.as_message() for mac, one in combined([ONE, TWO], {}, {}).items()}
    assert known == {
        ONE.mac: {"guest_ifname": None, "ip": [{"address": "10.0.0.1/24", "source": "file"}]},
        TWO.mac: {"guest_ifname": None, "ip": []},
    }


def test_what_the_host_has_seen_is_better_than_a_wish() -> None:
    """It is what the guest really uses."""
    known = combined([ONE, TWO], {}, SEEN)[ONE.mac].as_message()
    ips = [{"address": "10.0.0.9", "source": "neighbour"}, {"address": "fd00::9", "source": "neighbour"}]
    assert known == {"guest_ifname": None, "ip": ips}


def test_what_the_guest_says_is_best() -> None:
    """Even if it says that there is no address on a card: what the host has seen may be old."""
    known = combined([ONE, TWO], told(ONE.mac, "10.0.0.2/24"), SEEN)[ONE.mac].as_message()
    assert known == {"guest_ifname": "eth7", "ip": [{"address": "10.0.0.2/24", "source": "guest"}]}
    assert combined([ONE], told(ONE.mac), SEEN)[ONE.mac].as_message() == {"guest_ifname": "eth7", "ip": []}


def test_a_card_that_somebody_else_plugged_in_is_known_if_the_guest_tells_of_it() -> None:
    """It has no row."""
    other = "52:54:00:00:00:99"
    assert combined([ONE], told(other), {})[other].guest_ifname == "eth7"
