"""Secrets come from files and from the environment, and one that is not to be had is named by its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.errors import ConfigError
from qemunet.facts import Facts
from qemunet.live import secrets

LAB = '[vm.web]\n[vm.web.secret]\nroot = {{ {} }}\n[[vm.web.script]]\nsend = "{{secret.root}}"\n'


def gathered(folder: Path, source: str, **environ: str) -> dict[str, dict[str, str]]:
    spec = read.loads(LAB.format(source), str(folder / "lab.toml"))
    facts = Facts(runtime="/run/qemunet", machine_id="", uid=0, can_switch_user=False)
    lab = resolve.resolve(spec, profiles.load_all(spec), facts, strict=False)
    return secrets.gather(spec, lab.vms, environ)


@pytest.mark.parametrize(
    ("held", "value"),
    [(b"hunter2\n", "hunter2"), (b"a b ", "a b "), (b"x\r\n", "x"), ("pässwörd".encode(), "pässwörd")],
)
def test_a_file_has_it_but_for_its_line_end(tmp_path: Path, held: bytes, value: str) -> None:
    """Relative to the lab file."""
    (tmp_path / "pw").write_bytes(held)
    assert gathered(tmp_path, 'file = "pw"') == {"web": {"secret.root": value}}


def test_the_environment_has_it(tmp_path: Path) -> None:
    assert gathered(tmp_path, 'env = "PW"', PW="hunter2") == {"web": {"secret.root": "hunter2"}}


def test_what_is_no_utf_8_is_typed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"\xff\xfe")
    values = gathered(tmp_path, 'file = "pw"')["web"]
    secrets.keep(str(tmp_path), values)
    assert secrets.typed("<{secret.root}>", secrets.recall(str(tmp_path))) == b"<\xff\xfe>"


def test_it_is_kept_for_nobody_else_and_not_for_ever(tmp_path: Path) -> None:
    secrets.keep(str(tmp_path), {"secret.root": "hunter2"})
    assert os.stat(tmp_path / secrets.FILE).st_mode & 0o777 == 0o600
    secrets.forget(str(tmp_path))
    secrets.forget(str(tmp_path))
    assert secrets.recall(str(tmp_path)) == {}
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('file = "gone"', "no such file: {}/gone"),
        ('file = "."', "{} is not a file"),
        ('file = "pipe"', "{}/pipe is not a file"),
        ('file = "empty"', "{}/empty is empty"),
        ('file = "lines"', "{}/lines has a line break or another control character in it"),
        ('file = "long"', "{}/long is longer than 4095 bytes"),
        ('env = "GONE"', "the environment variable GONE is not set"),
        ('env = "EMPTY"', "the environment variable EMPTY is empty"),
    ],
)
def test_one_that_is_not_to_be_had_is_named(tmp_path: Path, source: str, problem: str) -> None:
    for name, held in (("empty", "\n"), ("lines", "a\nb\n"), ("long", "x" * 4096)):
        (tmp_path / name).write_text(held)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        gathered(tmp_path, source, EMPTY="")
    assert str(caught.value) == f"{tmp_path}/lab.toml: vm.web.secret.root: {problem.format(tmp_path)}"


def test_of_an_environment_only_what_is_named_is_passed_on() -> None:
    text = '[vm.a]\nlogin.password = { env = "B" }\nsecret.x = { env = "A" }\nsecret.y = { env = "C" }\n'
    spec = read.loads(text, "/lab/lab.toml")
    assert secrets.environment(spec, {"A": "1", "B": "2", "D": "3"}) == {"A": "1", "B": "2"}
