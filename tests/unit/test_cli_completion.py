"""Completion scripts are made from the parsers, so they cannot lag behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.cli import catalog, completion, main

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of which is a lab, and a running vm."""
    (tmp_path / "lab.toml").touch()
    (tmp_path / "lab.txt").touch()
    (tmp_path / "qemunet").write_text('#!/bin/sh\n[ "$*" = "ps --quiet" ] && echo kali2\n')
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
    assert offered(folder, "show", "") == {"lab.toml", "kali2"}
    assert offered(folder, "completion", "") == {"bash", "zsh"}
    assert offered(folder, "stop", "--timeout", "") == set()
    assert offered(folder, "ps", "") == set()


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
    specs = list(completion._zsh_specs(parser))
    assert "'--timeout[how long a guest may take after the power button was pressed (default 30s)]:TIME: '" in specs
    assert completion._zsh_text("a[b]:c") == "a\\[b\\]\\:c"
