"""Completion scripts are made from the parsers, so they cannot lag behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.cli import catalog, completion, main, offers
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime

BIN = str(Path(sys.executable).parent)

# Completes the words of the command line that it is given, and prints what bash would offer.
ASK = """
source /dev/stdin <<<"$script"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
compopt() { :; }
_qemunet
printf '%s\\n' "${COMPREPLY[@]}"
"""


# A stand-in for the command, which tells the names of what is there.
NAMES = """#!/bin/sh
case "$1 $2 $3 $4" in
    "completion bash --names vms") echo kali2 ;;
    "completion bash --names labs") echo office ;;
    "completion bash --names networks") echo lan ;;
    "completion bash --names cards") [ "$5 $6" = "--of kali2" ] && printf 'net0\\nnet1\\n' ;;
    "completion bash --names cables") echo trunk ;;
    "completion bash --names namespaces") echo router ;;
esac
exit 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of which is a lab, and something of every kind that runs."""
    (tmp_path / "lab.toml").touch()
    (tmp_path / "lab.txt").touch()
    (tmp_path / "qemunet").write_text(NAMES)
    (tmp_path / "qemunet").chmod(0o755)
    return tmp_path


def offered(folder: Path, *words: str) -> set[str]:
    result = subprocess.run(
        ["bash", "-euc", ASK, "bash", "qemunet", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"script": completion.bash(), "PATH": f"{folder}:/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr
    return set(filter(None, result.stdout.split("\n")))


def test_bash_offers_commands_and_the_words_of_a_group(folder: Path) -> None:
    """The first words of all commands, then the second ones."""
    assert offered(folder, "") == set(catalog.words(""))
    assert offered(folder, "st") == {"stop", "status"}
    assert offered(folder, "net", "") == {"down", "leases", "list", "show", "up"}


def test_bash_offers_every_option_of_a_command(folder: Path) -> None:
    """Those that its parser takes, and no other."""
    for name in catalog.COMMANDS:
        parser, _ = main.command(name)
        assert offered(folder, *name.split(), "-") == set(parser.options()), name


def test_bash_offers_what_an_argument_stands_for(folder: Path) -> None:
    """Lab files, running vms, both, the choices of a command, or nothing for a value that nobody can guess."""
    assert offered(folder, "run", "") == {"lab.toml"}
    assert offered(folder, "stop", "") == {"kali2"}
    assert offered(folder, "show", "") == {"lab.toml", "kali2", "office"}
    assert offered(folder, "completion", "") == {"bash", "zsh"}
    assert offered(folder, "stop", "--timeout", "") == set()
    assert offered(folder, "ps", "") == set()


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("status", "kali2 office"),
        ("down", "lab.toml office"),
        ("net up", "lab.toml lan"),
        ("net up lab.toml", ""),
        ("net down lan", "lab.toml lan"),
        ("net show", "lan"),
        ("run lab.toml", ""),
        ("stop kali2", "kali2"),
        ("nic del", "kali2"),
        ("nic del kali2", "net0 net1"),
        ("nic del --timeout 3s --cut kali2", "net0 net1"),
        ("nic del other", ""),
        ("nic del kali2 net0", ""),
        ("nic capture kali2", "net0 net1"),
        ("qmp kali2", ""),
        ("cable pull", "trunk"),
        ("cable add host", "network: bridge: host free"),
        ("exec", "kali2 router"),
        ("nic add --network", "lan"),
        ("nic add --mode", "user tap macvtap stream dgram mcast vde passt vhost-user hostdev"),
        ("nic set --link", "up down"),
        ("nic set --guard", "off mac clean strict"),
        ("nic set --port-isolation", "on off"),
        ("nic set --vhost", "auto on off"),
        ("nic set --macvtap", "bridge vepa private passthru"),
        ("nic set --file", "lab.toml"),
        ("nic set --mac", ""),
        ("completion bash --names", "vms labs networks cards cables namespaces"),
    ],
)
def test_bash_offers_what_is_of_the_right_kind(folder: Path, line: str, known: str) -> None:
    """By what has been typed so far, not counting options and their values."""
    assert offered(folder, *line.split(), "") == set(known.split())


def test_the_models_that_people_take_are_offered(folder: Path) -> None:
    assert {"virtio", "e1000", "vmxnet3"} < offered(folder, "nic", "add", "kali2", "--model", "")


def test_the_names_are_those_of_what_is_there(tmp_path: Path) -> None:
    """Where nothing is, there are none."""
    runtime = Runtime(str(tmp_path / "run"))
    assert [offers.names(runtime, offers.Kind(kind), "db") for kind in offers.NAMES] == [[]] * 6
    for name in ("vm/db", "net/lan", "cable/trunk", "netns/router"):
        with runtime.exclusive():
            runtime.scope(name).create()
    runtime.scope("net/lan").complete("lan")
    nics = tuple(NicRecord(nic, "user", "e1000", "52:54:00:00:00:01", "up") for nic in ("net1", "net0"))
    runtime.scope("vm/db").save(VmRecord("db", "shop", "/shop.toml", "q35", "tcg", nics))
    found = [offers.names(runtime, offers.Kind(kind), "db") for kind in offers.NAMES]
    assert found == [["db"], ["shop"], ["lan"], ["net0", "net1"], ["trunk"], ["router"]]
    assert offers.names(runtime, offers.Kind.CARDS, "other") == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is in it, and no place holder is left."""
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in catalog.COMMANDS:
        assert name.split()[-1] in script
    assert not re.search(r"@\w", script)


def test_what_zsh_reads_as_syntax_is_escaped() -> None:
    """A colon or a bracket in a help text would end it."""
    parser, _ = main.command("stop")
    specs = list(completion._zsh_specs("stop", parser))
    assert "'--timeout[how long a guest may take after the power button was pressed (default 30s)]:TIME: '" in specs
    assert completion._zsh_text("a[b]:c") == "a\\[b\\]\\:c"
    add = list(completion._zsh_specs("nic add", main.command("nic add")[0]))
    (network,) = [spec for spec in add if spec.startswith("'--network[")]
    assert network.endswith(":NETWORK:_qemunet_offers networks'")
    assert [spec for spec in add if spec.endswith(":up|down:(up down)'")]
