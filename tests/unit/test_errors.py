"""What errors say: all of it, and so that people can read it."""

from __future__ import annotations

import shlex

from qemunet.errors import LaunchFailed

ARGV = ["/usr/bin/qemu", "-S", "-m", "64M", "-netdev", '{"type":"user","id":"a b"}', "-device", "-1", "-append", "it's"]


def test_a_launch_error_has_the_whole_command_line_an_option_a_line() -> None:
    text = str(LaunchFailed("a", 1, ARGV, "no\nsuch luck\n"))
    told, _, command = text.partition("  command line:\n")
    assert told.splitlines() == [
        "vm.a: QEMU died at start (exit status 1)",
        "  it said:",
        "    no",
        "    such luck",
    ]
    assert [line.removesuffix(" \\") for line in command.splitlines()] == [
        "    /usr/bin/qemu",
        "      -S",
        "      -m 64M",
        """      -netdev '{"type":"user","id":"a b"}'""",
        "      -device -1",
        """      -append 'it'"'"'s'""",
    ]


def test_a_shell_reads_that_command_line_as_it_was() -> None:
    command = str(LaunchFailed("a", 1, ARGV, "")).partition("command line:\n")[2]
    assert shlex.split(command.replace("\\\n", "")) == ARGV


def test_a_qemu_that_said_nothing_is_said_to() -> None:
    assert "  it said: (nothing)\n" in str(LaunchFailed("a", -9, ["qemu"], ""))
