"""The command line as a whole: finding commands, exit statuses, and what is printed where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.cli import catalog, main, parser
from qemunet.errors import UsageError

Output = pytest.CaptureFixture[str]
PYTHON = [sys.executable, "-m", "qemunet"]


def status_of(*argv: str) -> int:
    return main.main(argv)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty runtime directory."""
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def run(command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, with `qemunet` standing for the real thing."""
    line = command.replace("qemunet", f"'{sys.executable}' -m qemunet")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env, cwd=Path(__file__).parents[2])


# ---------------------------------------------------------------- finding the command


def test_every_command_of_the_catalog_has_a_parser_and_an_action() -> None:
    """The catalog is what `--help` and completion are made from, so it must be right."""
    for name in catalog.COMMANDS:
        parser, action = main.command(name)
        assert parser.prog == f"qemunet {name}"
        assert callable(action)


def test_every_command_explains_itself(capsys: Output) -> None:
    """`--help` ends with 0 and says what the overview says."""
    for name, (_, summary) in catalog.COMMANDS.items():
        assert status_of(*name.split(), "--help") == 0
        assert summary.split(";")[0].split("(")[0].strip() in " ".join(capsys.readouterr().out.split())


def test_help_is_data_and_the_lack_of_a_command_is_talk(capsys: Output) -> None:
    """`qemunet --help | less` works; `qemunet` alone is a wrong command line."""
    assert status_of("--help") == 0
    asked = capsys.readouterr()
    assert status_of() == 2
    told = capsys.readouterr()
    assert asked.out == told.err
    assert (asked.err, told.out) == ("", "")


def test_the_version_is_printed(capsys: Output) -> None:
    """Package managers and bug reports want it."""
    assert status_of("--version") == 0
    assert capsys.readouterr().out.startswith("qemunet 0.")


@pytest.mark.parametrize(
    ("argv", "problem", "hint"),
    [
        (["stpo"], 'unknown command "stpo"', 'did you mean "stop"?'),
        (["--verison"], 'unknown option "--verison"', 'did you mean "--version"?'),
        (["nic", "lst"], 'unknown command "nic lst"', 'did you mean "list"?'),
        (["nic"], "missing: what to do with cards", "known: list"),
        (["ps", "--jsn"], 'unknown option "--jsn"', 'did you mean "--json"?'),
        (["run"], "missing: FILE", "usage: qemunet run "),
        (["stop"], "missing: VM", "usage: qemunet stop "),
        (["ps", "more"], 'one argument too many: "more"', "usage: qemunet ps "),
        (["mac", "-n"], "option -n needs a value", "usage: qemunet mac "),
        (["mac", "-n", "0"], '-n: "0" is not a number', "usage: qemunet mac "),
        (["ps", "--json=3"], 'option --json takes no value, and "3" was given', "usage: qemunet ps "),
        (["stop", "a", "--timeout", "5 s"], "as in 30s, 500ms, 2m or 1h", "usage: qemunet stop "),
        (["stop", "a", "--timeout", "nan"], '"nan" is not a time', "usage: qemunet stop "),
        (["stop", "a", "--timeout", "-5s"], '"-5s" is not a time', "usage: qemunet stop "),
        (["stop", "a", "--timeout", "--force"], "option --timeout needs a value", "usage: qemunet stop "),
        (["nic", "capture", "a", "net0", "-w"], "option -w needs a value", "usage: qemunet nic capture "),
        (["nic", "set", "a", "net0", "--link"], "option --link needs a value", "[options]; `qemunet nic set --help`"),
        (
            ["nic", "add", "a", "--mtu", "9k"],
            '--mtu: "9k" is not a whole number',
            "usage: qemunet nic add VM [options]",
        ),
        (["completion", "fish"], 'SHELL: unknown "fish"', "known: bash, zsh"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_a_hint(argv: list[str], problem: str, hint: str, capsys: Output) -> None:
    """In the style of every other error, with the nearest command or option, or the usage."""
    assert status_of(*argv) == 2
    output = capsys.readouterr()
    first, second = output.err.splitlines()
    assert first.startswith("error: ")
    assert problem in first
    assert second.startswith("  hint: ")
    assert hint in second
    assert output.out == ""


def test_json_without_a_command_is_told_where_it_stands(capsys: Output) -> None:
    """As JSON, for that was asked for."""
    assert status_of("--json") == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["message"] == "--json stands behind a command"
    assert error["hint"] == "as in `qemunet ps --json`"


def test_options_may_stand_between_the_names() -> None:
    """``run lab.toml -d kali2 --set a.b=c router``, as a user types it."""
    parser, _ = main.command("run")
    args = parser.parse(["lab.toml", "-d", "kali2", "--set", "a.b=c", "router"])
    assert (args.file, args.vms, args.detach, args.overrides) == ("lab.toml", ["kali2", "router"], True, ["a.b=c"])


def test_a_value_may_be_empty() -> None:
    """As a variable is that nobody set; no name takes its place."""
    parser, _ = main.command("nic capture")
    args = parser.parse(["kali2", "net0", "-w", ""])
    assert (args.vm, args.nic, args.write) == ("kali2", "net0", "")
    parser, _ = main.command("nic add")
    assert parser.parse(["--network", "", "kali2"]).network == ""


def test_the_numbers_of_a_card_are_those_of_the_lab_file() -> None:
    """The first card to boot from has the number 0; what is too much is said by whoever reads the key."""
    parser, _ = main.command("nic add")
    args = parser.parse(["kali2", "--boot-index", "0", "--mtu", "-1"])
    assert (args.boot_index, args.mtu) == (0, -1)


def test_after_two_dashes_everything_is_a_name() -> None:
    """A file may have the name of an option."""
    parser, _ = main.command("run")
    args = parser.parse(["-d", "--", "-d", "--no-console"])
    assert (args.file, args.vms, args.no_console) == ("-d", ["--no-console"], False)


# ---------------------------------------------------------------- errors


def test_an_error_is_json_if_json_was_asked_for(capsys: Output) -> None:
    """Even one of the command line itself; a file of that name asks for nothing."""
    assert status_of("status", "nobody", "--json") == 4
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["kind"] == "not-found"
    assert set(error) == {"kind", "message", "where", "hint"}
    assert status_of("ps", "--bogus", "--json") == 2
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "usage"
    assert status_of("check", "--", "--json") == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/etc/shadow"), 1, "/etc/shadow: Permission denied"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("by zero"), 1, "a mistake in qemunet: ZeroDivisionError: by zero"),
        (UsageError("no", hint="but"), 2, "error: no\n  hint: but"),
    ],
)
def test_whatever_is_raised_becomes_a_message(
    error: BaseException, status: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Nobody sees a traceback; a mistake of ours says where it happened."""

    def fail(_argv: object) -> int:
        raise error

    monkeypatch.setattr(main, "_dispatch", fail)
    assert status_of("ps") == status
    assert text in capsys.readouterr().err


def test_an_error_drives_no_terminal(capsys: Output) -> None:
    """A name with escape sequences is shown and not obeyed."""
    assert status_of("status", "\x1b[2Jevil\r") == 4
    assert "\x1b" not in (said := capsys.readouterr().err)
    assert "\\x1b[2Jevil\\r" in said


# ---------------------------------------------------------------- streams


def test_a_line_break_in_a_path_makes_no_line(tmp_path: Path, capsys: Output) -> None:
    """Who names a file does not write our messages."""
    file = tmp_path / "a\nerror: b.toml"
    assert status_of("check", str(file)) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {tmp_path}/a\\nerror: b.toml: no such file"]


def test_a_reader_that_left_is_no_error() -> None:
    """``qemunet schema | true`` says nothing, and ends as any filter does."""
    result = run("qemunet --help | true; exit ${PIPESTATUS[0]}")
    assert result.returncode in (0, 141)  # the reader may be late to leave
    assert result.stderr == ""
    result = run("(trap '' PIPE; exec 3> >(:); wait $!; qemunet --help >&3); exit $?")
    assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_an_error() -> None:
    """A full disk must not look like success."""
    result = run("unset PYTHONUNBUFFERED; qemunet --help > /dev/full")
    assert result.returncode == 1
    assert result.stderr == "error: stdout: No space left on device\n"


@pytest.mark.parametrize("words", ["ps", "ps --json", "ps --help"])
def test_output_that_cannot_be_written_is_told_with_its_place(words: str) -> None:
    """The one who reads it may have several redirections."""
    result = run(f"unset PYTHONUNBUFFERED; qemunet {words} > /dev/full")
    assert result.returncode == 1
    if "--json" in words:
        assert json.loads(result.stderr)["error"]["where"] == "stdout"
    else:
        assert result.stderr == "error: stdout: No space left on device\n"


@pytest.mark.parametrize("words", ["schema", "schema --markdown", "completion bash", "mac", "ps", "nic set --help"])
@pytest.mark.parametrize("how", ["unset PYTHONUNBUFFERED", "export PYTHONUNBUFFERED=1"])
def test_it_is_told_with_its_place_however_much_it_is_and_whatever_waits_in_a_buffer(words: str, how: str) -> None:
    result = run(f"{how}; qemunet {words} > /dev/full")
    assert (result.returncode, result.stderr) == (1, "error: stdout: No space left on device\n")


@pytest.mark.parametrize(("argv", "place"), [(["check", ""], '""'), (["nic", "del", "", "net0"], 'vm.""')])
def test_an_empty_name_is_to_be_seen(argv: list[str], place: str, capsys: Output) -> None:
    """A variable of a script was not set."""
    assert status_of(*argv) != 0
    assert capsys.readouterr().err.startswith(f"error: {place}: ")


def test_an_empty_word_too_many_is_said(capsys: Output) -> None:
    assert status_of("mac", "") == 2
    assert capsys.readouterr().err.startswith('error: one argument too many: ""\n')


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files_do_no_harm(closed: str) -> None:
    """Nothing that is opened later gets the number of stdout."""
    result = run(f"qemunet ps {closed}")
    assert result.returncode == 0
    assert result.stderr == ""


def test_it_works_without_any_environment(nowhere: Path) -> None:
    """No HOME, no PATH, no locale."""
    env = {"QEMUNET_RUNTIME_DIR": str(nowhere / "run")}
    for command in ("ps", "mac", "profiles", "check examples/demo.toml", "plan examples/demo.toml"):
        argv = [*PYTHON, *command.split()]
        result = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[2])
        assert result.returncode == 0, result.stderr


def test_a_name_that_the_locale_cannot_print_is_printed_all_the_same() -> None:
    """In the C locale, and with bytes that are no text at all."""
    for name in ("é", "\udcff"):
        argv = [*PYTHON, "status", name]
        result = subprocess.run(argv, capture_output=True, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
        assert result.returncode == 4
        assert b"Traceback" not in result.stderr


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, a dumb terminal and a pipe get none."""
    from qemunet.cli import render

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert render.paint("running", Terminal()) == "\x1b[32mrunning\x1b[0m"  # type: ignore[arg-type]
    assert render.paint("kali2", Terminal()) == "kali2"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert render.paint("running", Terminal()) == "running"  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert render.paint("running", Terminal()) == "running"  # type: ignore[arg-type]


# ---------------------------------------------------------------- speed


@pytest.mark.parametrize("argv", [["--version"], ["ps"], ["ps", "--json"], ["stop", "nobody"], ["console", "nobody"]])
def test_thin_commands_import_no_thinking(argv: list[str]) -> None:
    """They are typed all day: neither reading, nor planning, nor an event loop, nor netlink is loaded for them."""
    program = (
        "import sys; from qemunet.cli.main import main; main(sys.argv[1:]);"
        "heavy = ('asyncio', 'subprocess', 'pathlib', 'pyroute2', 'qemu', 'tomllib', 'qemunet.config.read',"
        " 'qemunet.config.resolve', 'qemunet.plan', 'qemunet.host.linux', 'logging', 'shutil');"
        "found = [name for name in heavy if name in sys.modules]; sys.exit(f'loaded: {found}' if found else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_error_on_a_terminal_is_red(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """Its own colour passes, one that is part of a name does not."""
    monkeypatch.setattr("qemunet.cli.render.wants_colour", lambda _stream: True)
    assert status_of("status", "\x1b[31mx") == 4
    assert capsys.readouterr().err.startswith("\x1b[1;31merror\x1b[0m: ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7", 7), ("1.5s", 1.5), ("0", 0)]
)
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert parser.seconds(text) == seconds
