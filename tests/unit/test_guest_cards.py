"""The guest's own shell functions, run by the host's busybox on trees of files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import qemunet.guest

FILES = Path(qemunet.guest.__file__).parent / "files"

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")


def shell(script: str, **environment: str) -> str:
    """Run lines after sourcing cards.sh; return what they print."""
    result = subprocess.run(
        ["busybox", "sh", "-eu", "-c", f". {FILES}/cards.sh\n{script}"],
        env=environment, capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("path", sorted(FILES.glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_one_for_the_shell(path: Path) -> None:
    subprocess.run(["busybox", "sh", "-n", str(path)], check=True, timeout=20)


@pytest.mark.parametrize(
    ("mac", "wish"),
    [
        ("52:54:00:00:00:01", "10.0.0.1/24,fd77::1/64,via=10.0.0.254"),
        ("52:54:00:00:00:02", "none"),
        ("52:54:00:00:00:03", "dhcp"),
    ],
)
def test_the_command_line_says_what_a_card_gets(mac: str, wish: str) -> None:
    words = (
        "console=ttyS0 qemunet.nic=52:54:00:00:00:01,10.0.0.1/24,fd77::1/64,via=10.0.0.254"
        " qemunet.nic=52:54:00:00:00:02,none quiet"
    )
    assert shell(f"cmdline='{words}'; find_wish {mac}; echo $wish") == f"{wish}\n"


@pytest.mark.parametrize(
    ("words", "name"), [("a qemunet.name=kali2 b", "kali2"), ("", "guest"), ("qemunet.name=", "guest")]
)
def test_the_name(words: str, name: str) -> None:
    assert shell(f"cmdline='{words}'; find_name; echo $name") == f"{name}\n"


def test_only_network_and_virtio_devices_concern_us() -> None:
    aliases = {
        "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00": True,
        "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00": True,
        "pci:v00001B36d0000000Csv00000000sd00000000bc06sc04i00": False,
        "virtio:d00000001v00001AF4": True,
    }
    for alias, ours in aliases.items():
        assert shell(f"concerns_us '{alias}' && echo yes || echo no") == ("yes\n" if ours else "no\n")


def tree(base: Path, **cards: str) -> dict[str, str]:
    """A /sys with these cards and their carriers, an empty /run, and a fake `ip` and `udhcpc`."""
    for number, (name, carrier) in enumerate(cards.items(), start=2):
        card = base / "sys/class/net" / name
        (card / "device").mkdir(parents=True)
        facts = {
            "address": f"52:54:00:00:00:{number:02x}",
            "ifindex": number,
            "carrier": carrier,
            "carrier_up_count": 1,
        }
        for file, text in facts.items():
            (card / file).write_text(f"{text}\n")
    (base / "run").mkdir()
    return {"SYS": str(base / "sys"), "RUN": str(base / "run")}


FAKES = 'ip() { echo ip "$@"; }; udhcpc() { :; }; cmdline=; name=vm1\n'


def test_a_card_is_asked_for_once_per_carrier(tmp_path: Path) -> None:
    places = tree(tmp_path, eth0="1")
    count = tmp_path / "sys/class/net/eth0/carrier_up_count"
    script = f"""{FAKES} ask_dhcp() {{ echo ask $1; echo $2 >$RUN/$1.ups; }}
        adopt_cards; follow_carriers; follow_carriers; echo 2 >{count}; follow_carriers"""
    assert shell(script, **places) == "ip link set eth0 up\nask eth0\nask eth0\n"


def test_a_card_without_carrier_is_waited_for_only_until_carriers_are_due(tmp_path: Path) -> None:
    script = f"""{FAKES} adopt_cards >/dev/null; follow_carriers; carriers_due=20
        for now in 10 20; do all_settled && echo settled || echo waiting; done"""
    assert shell(script, **tree(tmp_path, eth0="0")) == "waiting\nsettled\n"


def test_a_card_with_a_carrier_is_waited_for_until_it_has_its_lease(tmp_path: Path) -> None:
    script = f"""{FAKES} adopt_cards >/dev/null; follow_carriers; carriers_due=20; now=30
        all_settled && echo settled || echo waiting
        echo 10.0.0.1 >$RUN/eth0.addresses; all_settled && echo settled || echo waiting"""
    assert shell(script, **tree(tmp_path, eth0="1")) == "waiting\nsettled\n"


def test_a_card_that_is_gone_is_forgotten_and_another_of_its_name_is_new(tmp_path: Path) -> None:
    places = tree(tmp_path, eth0="1")
    card = tmp_path / "sys/class/net/eth0"
    script = f"""{FAKES} adopt_cards; adopt_cards; echo 9 >{card}/ifindex; adopt_cards
        rm -r {card}; adopt_cards; ls $RUN"""
    assert shell(script, **places) == "ip link set eth0 up\nip link set eth0 up\n"


def test_a_card_that_goes_while_it_is_looked_at_is_passed_over_without_a_word(tmp_path: Path) -> None:
    """Whatever the shell said would stand on the console."""
    places = tree(tmp_path, eth0="1", eth1="1")
    (tmp_path / "sys/class/net/eth0/ifindex").unlink()
    assert shell(f"{FAKES} adopt_cards", **places) == "ip link set eth1 up\n"


# ---------------------------------------------------------------- agent.sh

AGENT = f". {FILES}/agent.sh\n"
TURN = "at=$(mktemp -u); mkfifo $at; exec 6<>$at; rm $at; echo >&6"
ADDRESSES = """1: lo    inet 127.0.0.1/8 scope host lo
2: eth0    inet 10.0.0.2/24 brd 10.0.0.255 scope global eth0
2: eth0    inet6 fe80::1/64 scope link
3: eth1: <BROADCAST> mtu 1500
3: eth1    inet 10.0.1.2/24 scope global eth1"""


@pytest.mark.parametrize(
    ("ports", "found"),
    [({"vport0p1": "spice", "vport0p2": "org.qemunet.agent.0"}, "vport0p2"), ({"vport0p1": "x"}, ""), ({}, "")],
)
def test_the_keepers_port_is_known_by_its_name(tmp_path: Path, ports: dict[str, str], found: str) -> None:
    """A guest may have others, which are for somebody else."""
    for port, name in ports.items():
        (tmp_path / "class/virtio-ports" / port).mkdir(parents=True)
        (tmp_path / "class/virtio-ports" / port / "name").write_text(f"{name}\n")
    assert shell(f"{AGENT} SYS={tmp_path}; find_agent_port; echo $agent_port") == f"{found}\n"


def test_a_line_tells_of_each_card_its_name_mac_carrier_and_addresses(tmp_path: Path) -> None:
    places = tree(tmp_path, eth0="1", eth1="0")
    (tmp_path / "sys/class/net/lo").mkdir()
    script = f"{AGENT} ip() {{ echo '{ADDRESSES}'; }}; {TURN}; exec 4>&1; tell_cards 7"
    expected = "cards 7 eth0/52:54:00:00:00:02,1,10.0.0.2/24,fe80::1/64 eth1/52:54:00:00:00:03,0,10.0.1.2/24\n"
    assert shell(script, **places) == expected


def test_the_strangest_name_of_a_card_comes_through_as_it_is(tmp_path: Path) -> None:
    names = ["a,b", "*", "$(reboot)", "a\x1bb", "-n", "a\\tb"]
    places = tree(tmp_path, **dict.fromkeys(names, "1"))
    told = shell(f"{AGENT} ip() {{ :; }}; {TURN}; exec 4>&1; tell_cards 0", **places).removesuffix("\n")
    assert {word.split("/")[0] for word in told.split(" ")[2:]} == set(names)


def test_without_a_card_there_is_still_an_answer(tmp_path: Path) -> None:
    (tmp_path / "sys/class/net").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    places = {"SYS": str(tmp_path / "sys"), "RUN": str(tmp_path / "run")}
    assert shell(f"{AGENT} ip() {{ :; }}; {TURN}; exec 4>&1; tell_cards 3", **places) == "cards 3\n"


def test_a_change_is_noted_once_until_it_was_told(tmp_path: Path) -> None:
    """However much happens while nobody takes it, one wish waits: the pipe never fills."""
    places = tree(tmp_path, eth0="1")
    base = tmp_path / "sys/class/net/eth0"
    script = f"""{AGENT} told=; exec 5>&1; {TURN}; exec 4>/dev/null; ip() {{ :; }}
        note_changes; note_changes; echo 0 >{base}/carrier; note_changes; tell_cards 0
        note_changes; echo 10.0.0.1 >$RUN/eth0.addresses; note_changes"""
    assert shell(script, **places) == "cards 0\ncards 0\n"


def test_only_a_whole_request_is_heard(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(
        b"ards 1\n\n\x00\xff\ncards\ncards x\nexec 3 reboot\ncards 0;reboot\n cards  12 more\n"
    )
    script = f"{AGENT} exec 4<{tmp_path}/in; exec 5>&1; hear_keeper"
    assert shell(script) == "cards 12\n"
