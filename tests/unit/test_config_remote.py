"""Cards without an interface of the host: what a lab file says of each kind, and what it may not."""

from __future__ import annotations

import pytest

from qemunet.config.write import vm_toml
from qemunet.errors import ConfigError, HostLacks
from qemunet.facts import SocketFact
from qemunet.frozen import replace
from qemunet.model.nic import Backend, Forward
from qemunet.model.remote import (
    DgramBackend,
    InetAddress,
    McastBackend,
    PasstBackend,
    StreamBackend,
    UnixAddress,
    VdeBackend,
    VhostUserBackend,
)
from qemunet.plan import live
from tests.unit.config_host import FACTS, lab

CTL = "/run/vde.ctl/ctl"
PROGRAMS = {**FACTS.programs, "passt": "/usr/bin/passt"}
DOOR = "/lab/a.sock"
SOCKETS = {path: SocketFact(path, answered=True) for path in (CTL, DOOR)}
HOST = replace(FACTS, sockets=SOCKETS, programs=PROGRAMS)
VM = '[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\n'
LOCAL = InetAddress("127.0.0.1", 5000)


def backend(card: str) -> Backend:
    return lab(VM + card, HOST).vms[0].nics[0].backend


CARDS = [
    ('mode = "stream"\nlisten = "127.0.0.1:5000"', StreamBackend(LOCAL, listen=True)),
    ('mode = "stream"\nlisten = ":5000"', StreamBackend(InetAddress("", 5000), listen=True)),
    ('mode = "stream"\nconnect = "[FD00::0:1]:5000"', StreamBackend(InetAddress("fd00::1", 5000), listen=False)),
    ('mode = "stream"\nconnect = "far.example:5000"', StreamBackend(InetAddress("far.example", 5000), listen=False)),
    ('mode = "stream"\nconnect = "unix:wire"', StreamBackend(UnixAddress("/lab/wire"), listen=False)),
    (
        'mode = "dgram"\nlisten = "127.0.0.1:5000"\nconnect = "192.0.2.7:5001"',
        DgramBackend(LOCAL, InetAddress("192.0.2.7", 5001)),
    ),
    ('mode = "mcast"\ngroup = "230.0.0.1:1234"', McastBackend(InetAddress("230.0.0.1", 1234))),
    (
        'mode = "mcast"\ngroup = "230.0.0.1:1234"\nlocal = "192.0.2.1"',
        McastBackend(InetAddress("230.0.0.1", 1234), "192.0.2.1"),
    ),
    ('mode = "vde"\npath = "/run/vde.ctl"', VdeBackend("/run/vde.ctl")),
    ('mode = "vhost-user"\npath = "a.sock"', VhostUserBackend("/lab/a.sock")),
    (
        'mode = "passt"\nforward = ["tcp:[::1]:8080:80"]\ndns = "192.0.2.53"',
        PasstBackend((Forward("tcp", "::1", (8080, 8080), "", (80, 80)),), "192.0.2.53"),
    ),
]


@pytest.mark.parametrize(("card", "found"), CARDS)
def test_a_card_is_what_its_keys_say(card: str, found: Backend) -> None:
    """Paths are relative to the file, addresses in their usual form."""
    assert backend(card) == found


@pytest.mark.parametrize("card", [card for card, _ in CARDS])
def test_a_card_is_written_as_it_was_read(card: str) -> None:
    one = lab(VM + card, HOST)
    again = lab(vm_toml(one, one.vms[0]), HOST)
    assert again.vms[0].nics == one.vms[0].nics


@pytest.mark.parametrize(
    ("card", "key", "what"),
    [
        ('mode = "stream"', "listen", "neither listen nor connect"),
        ('mode = "stream"\nlisten = ":1"\nconnect = "a:1"', "connect", "both listen and connect"),
        ('mode = "stream"\nconnect = ":1"', "connect", "names nobody"),
        ('mode = "stream"\nlisten = "127.0.0.1"', "listen", "not an address with a port"),
        ('mode = "stream"\nlisten = "127.0.0.1:0"', "listen", "not an address with a port"),
        ('mode = "stream"\nlisten = "127.0.0.1:65536"', "listen", "not an address with a port"),
        ('mode = "stream"\nlisten = "127.0.0.300:1"', "listen", "not an IP address"),
        ('mode = "stream"\nlisten = "::1:5000"', "listen", "not an address with a port"),
        ('mode = "stream"\nlisten = "[127.0.0.1]:5000"', "listen", "brackets around an IPv4 address"),
        ('mode = "stream"\nlisten = "a b:5000"', "listen", "not an address with a port"),
        ('mode = "stream"\nlisten = "unix:"', "listen", "not a path"),
        (f'mode = "stream"\nlisten = "unix:{"x" * 105}"', "listen", "longer than the 107 bytes"),
        ('mode = "dgram"\nlisten = ":5000"', "connect", "needs both"),
        ('mode = "dgram"\nconnect = "192.0.2.7:5000"', "listen", "needs both"),
        ('mode = "dgram"\nlisten = "unix:a"\nconnect = "unix:b"', "listen", "is UDP"),
        ('mode = "mcast"', "group", "needs the group"),
        ('mode = "mcast"\ngroup = "192.0.2.1:1234"', "group", "not a multicast group"),
        ('mode = "vde"', "path", "needs the directory of its switch"),
        ('mode = "vhost-user"', "path", "needs the socket of its backend"),
        (f'mode = "vhost-user"\npath = "/{"x" * 107}"', "path", "longer than the 107 bytes"),
        ('mode = "vhost-user"\npath = "a.sock"\nmodel = "e1000"', "model", "knows virtio alone"),
        ('mode = "passt"\nhostname = "a"', "hostname", 'belongs to mode "user"'),
        ('mode = "passt"\nrestrict = true', "restrict", 'belongs to mode "user"'),
        ('mode = "passt"\nforward = ["tcp::80:b:80"]', "forward", "names a vm"),
        ('mode = "user"\npath = "/run/vde.ctl"', "path", 'belongs to mode "vde"'),
        ('mode = "vde"\npath = "/run/vde.ctl"\nqueues = 2', "queues", "belongs to"),
        ('mode = "vde"\npath = "/run/vde.ctl"\nguard = "mac"', "guard", "belongs to"),
        ('mode = "stream"\nlisten = ":1"\nifname = "tap7"', "ifname", "belongs to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(card: str, key: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backend(card)
    assert caught.value.where.endswith(f"vm.a.nic[0].{key}")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_port_is_listened_on_once() -> None:
    card = 'mode = "stream"\nlisten = "127.0.0.1:5000"\n'
    with pytest.raises(ConfigError, match="tcp port 5000 is also that of"):
        lab(f"{VM}{card}[[vm.a.nic]]\n{card}", HOST)


@pytest.mark.parametrize(
    ("fact", "lacking"),
    [
        (None, "a vde_switch at /run/vde.ctl"),
        (SocketFact(CTL, answered=False), "a vde_switch at /run/vde.ctl"),
        (SocketFact(CTL, answered=True, mode=0o700), "the right of QEMU"),
        (SocketFact(CTL, answered=True, passable=False), "the right of QEMU"),
    ],
)
def test_a_switch_has_to_be_there_and_let_qemu_in(fact: SocketFact | None, lacking: str) -> None:
    """Exit status 3, and what to do."""
    with pytest.raises(HostLacks, match=lacking) as caught:
        lab(f'{VM}mode = "vde"\npath = "/run/vde.ctl"', replace(FACTS, sockets={CTL: fact} if fact else {}))
    assert "vde_switch" in caught.value.hint


SHARED = 'mode = "vhost-user"\npath = "a.sock"\n'


def test_memory_is_shared_with_a_card_that_needs_it_or_where_the_file_says_so() -> None:
    assert lab(VM + SHARED, HOST).vms[0].shared_memory
    assert not lab(f'{VM}mode = "user"', HOST).vms[0].shared_memory
    text = VM.replace("[[vm", "shared-memory = true\n[[vm")
    assert lab(f'{text}mode = "user"', HOST).vms[0].shared_memory


def test_a_guest_whose_memory_is_not_shared_gets_no_such_card() -> None:
    """Nor one that runs: it says so of itself."""
    text = VM.replace("[[vm", "shared-memory = false\n[[vm")
    with pytest.raises(ConfigError, match="has to see the guest's memory") as caught:
        lab(text + SHARED, HOST)
    assert "shared-memory = true in [vm.a]" in caught.value.hint


@pytest.mark.parametrize(
    ("fact", "lacking"),
    [
        (None, "a vhost-user backend with the socket /lab/a.sock"),
        (SocketFact(DOOR, answered=True, mode=0o700), "the right of QEMU"),
    ],
)
def test_a_backend_has_to_be_there_and_let_qemu_in(fact: SocketFact | None, lacking: str) -> None:
    with pytest.raises(HostLacks, match=lacking) as caught:
        lab(VM + SHARED, replace(FACTS, sockets={DOOR: fact} if fact else {}))
    assert caught.value.hint


def test_a_running_guest_whose_memory_is_not_shared_has_to_be_restarted_for_such_a_card() -> None:
    """The card is not tried, and the others of the change are plugged in."""
    old = lab(f'{VM}mode = "user"', HOST).vms[0]
    new = lab(f'{VM}mode = "user"\n[[vm.a.nic]]\n{SHARED}', HOST).vms[0]
    first, *others = live.differences(old, new)
    assert isinstance(first, live.Restart)
    assert "was not shared when it started" in first.describe()
    assert [one.describe() for one in others] == ["shared-memory: false to true"]


def test_passt_has_to_be_there() -> None:
    with pytest.raises(HostLacks, match=r"passt, for vm\.a\.nic") as caught:
        lab(f'{VM}mode = "passt"', FACTS)
    assert "Debian has it in passt" in caught.value.hint


def test_a_user_of_the_switch_is_let_in() -> None:
    text = VM.replace("[[vm", 'user = "1001:1002"\n[[vm') + 'mode = "vde"\npath = "/run/vde.ctl"'
    mine = SocketFact(CTL, answered=True, uid=0, gid=1002, mode=0o660)
    assert lab(text, replace(FACTS, sockets={CTL: mine})).vms[0].nics[0].backend == VdeBackend("/run/vde.ctl")
