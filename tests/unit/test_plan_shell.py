"""The plan as a script: words, quoting, and what is taken back."""

from __future__ import annotations

import json
import shlex
import subprocess

from hypothesis import given
from hypothesis import strategies as st

from qemunet.model.lab import Lab
from qemunet.plan import shell, text
from qemunet.plan.words import as_json, by_option, option, quoted, word
from qemunet.steps import CreateImage, Handle, Part, Plan, Reserve, SetOffload, SetSysctl, StartQemu, WriteFile

LAB = Lab("pentest", "/l/pentest.toml", (), ())
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
)


@given(JSON)
def test_json_means_what_it_was_made_of(value: object) -> None:
    """Whatever stands in a lab file."""
    assert json.loads(str(as_json(value))) == value  # type: ignore[arg-type]


@given(TEXT)
def test_a_shell_reads_a_quoted_word_as_it_was(value: str) -> None:
    """Quotes, dollars and line ends included."""
    assert shlex.split(quoted(word("a", value))) == [f"a{value}"]


def test_a_handle_is_a_variable_of_the_script_and_text_around_it_stays_text() -> None:
    """Only the handle is expanded."""
    line = f"run='/r x'; printf %s {quoted(word('$a,', Handle('run'), '/$b'))}"
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout == "$a,/r x/$b"


def test_a_handle_in_json_is_a_string() -> None:
    """QEMU wants descriptors as strings."""
    assert str(as_json({"fd": Handle("a:net0"), "n": word("x", Handle("h"))})) == '{"fd":"<a:net0>","n":"x<h>"}'


def test_neighbouring_text_is_one_part() -> None:
    """Equal arguments are equal values."""
    assert word("a", "", "b") == word("ab")
    assert word("", Handle("h"), "").parts == (Handle("h"),)


def test_a_command_line_is_grouped_by_option() -> None:
    """For the eye only."""
    argv = (word("qemu"), word("-S"), *option("-m", "1G"))
    assert [" ".join(map(str, group)) for group in by_option(argv)] == ["qemu", "-S", "-m 1G"]


def script(scope: str, *steps: object) -> str:
    return shell.script(LAB, Plan(shared=(Part(scope, steps),)))  # type: ignore[arg-type]


def test_a_setting_of_a_foreign_interface_is_kept_and_restored() -> None:
    """What it was when the script ran, not when it was written."""
    found = script("host/forward-eth0", SetSysctl("net.ipv4.conf.eth0.forwarding", "1"))
    up, down = found.split("\ndown() {\n")
    assert "keep 1 net.ipv4.conf.eth0.forwarding\n    sysctl -qw net.ipv4.conf.eth0.forwarding=1\n" in up
    assert "restore 1 net.ipv4.conf.eth0.forwarding 1\n" in down


def test_a_card_is_known_to_its_network_as_long_as_it_is_there() -> None:
    """By a file that the network's dnsmasq reads."""
    found = script("net/lab", Reserve("dnsmasq", "/r/net/lab", "hosts/a.net0", "52:54:00:00:00:01,a\n"))
    up, down = found.split("\ndown() {\n")
    file = '"$run"/lab.dnsmasq/hosts/a.net0'
    assert f"printf '%s\\n' 52:54:00:00:00:01,a >{file}\n    did 1\n" in up
    assert f"undo 1 rm -f {file}\n" in down


def test_a_host_without_ethtool_is_told_what_it_lacks() -> None:
    """It is no reason to fail: most guests do without."""
    (line,) = SetOffload("br0", on=False).shell()
    assert line.startswith("if command -v ethtool >/dev/null; then ethtool -K br0 tx off >/dev/null; else echo ")


def test_a_script_never_removes_a_users_image() -> None:
    """It may hold work by then."""
    found = script("net/lab", CreateImage("/d/x", "qcow2", 1, "/r/note"))
    assert "rm -f /d/x" not in found


def test_files_of_the_runtime_directory_are_not_written() -> None:
    """They are qemunet's own affair."""
    assert "/r/x" not in script("net/lab", WriteFile("/r/x", "text"))


def test_an_empty_plan_says_so() -> None:
    """Nothing is not an empty page."""
    assert text.text(Plan()) == "nothing to do\n"


def test_the_table_has_a_row_per_step() -> None:
    """With the same words as the text, and shell lines."""
    start = StartQemu("a", "/r/vm/a", (word("q"), *option("-machine", "q35,x=y"), *option("-m", "1G")), ("one", "two"))
    plan = Plan(start=(Part("vm/a", (start,)),))
    assert text.table(plan) == [{"scope": "vm/a", "step": "start QEMU of a", "shell": "one\ntwo"}]
    assert text.text(plan) == "vm/a\n  start QEMU of a (q35, 1G)\n"


def test_a_script_says_how_it_is_used() -> None:
    """Nothing is done for a word that it does not know."""
    done = subprocess.run(
        ["sh", "-s", "sideways"],
        input=script("net/lab", CreateImage("/nonexistent/x", "raw", 1, "/r/note")),
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "usage: sh sh [up|down]\n")
