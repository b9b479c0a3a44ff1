"""A vm's script is what gets to its prompt, then a file's steps, then its own; each says where it is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet.config import origins, profiles, read, resolve, stepfiles
from qemunet.config.write import lab_toml
from qemunet.errors import ConfigError
from qemunet.facts import Facts
from qemunet.model.lab import Lab

FACTS = Facts(runtime="/run/qemunet", machine_id="", uid=0, can_switch_user=False)
OWN = '[[vm.web.script]]\nsend = "own {login.user}"\n'
LOGIN = '[vm.web.login]\nrecipe = "debian"\nuser = "anna"\n'


def resolved(text: str, folder: Path) -> Lab:
    spec = read.loads(text, str(folder / "lab.toml"))
    return resolve.resolve(spec, profiles.load_all(spec), FACTS, strict=False)


def sent(lab: Lab) -> list[str | None]:
    return [step.send for step in lab.vms[0].script]


def test_a_recipe_comes_first_then_the_file_then_the_lab_file(tmp_path: Path) -> None:
    (tmp_path / "steps.toml").write_text('# mine\n[[script]]\nsend = "filed {vm.name}"\n')
    text = f'[vm.web]\nscript-file = "steps.toml"\n{LOGIN}password = {{ file = "pw" }}\n{OWN}'
    lab = resolved(text, tmp_path)
    assert sent(lab) == ["anna", "{login.password}", None, "filed web", "own anna"]
    again = resolved(lab_toml(lab), tmp_path)
    assert (again.vms[0].script, again.vms[0].secrets) == (lab.vms[0].script, lab.vms[0].secrets)
    assert lab.vms[0].secrets[0].source == resolve.scripts.FromFile(f"{tmp_path}/pw")


def test_without_a_password_none_is_typed(tmp_path: Path) -> None:
    assert sent(resolved(f"[vm.web]\n{LOGIN}{OWN}", tmp_path)) == ["anna", None, "own anna"]


def test_every_recipe_can_be_had_with_and_without_a_password(tmp_path: Path) -> None:
    assert stepfiles.recipes() == ["alpine", "debian", "router", "tiny"]
    for recipe in stepfiles.recipes():
        for password in ("", 'password = { env = "PW" }\n'):
            assert resolved(f"[vm.web]\n{LOGIN.replace('debian', recipe)}{password}", tmp_path).vms[0].script


def test_what_is_shown_says_from_which_file_a_step_is(tmp_path: Path) -> None:
    steps = tmp_path / "steps.toml"
    steps.write_text('[[script]]\nsend = "filed"\n')
    spec = read.loads(f'[vm.web]\nscript-file = "steps.toml"\nlogin.user = "x"\n{OWN}', str(tmp_path / "lab.toml"))
    found = origins.origins(spec, profiles.load_all(spec))
    assert found["vm.web.script[0].send"] == f"file {steps}"
    assert (found["vm.web.script[0].enter"], found["vm.web.script[1].send"]) == ("default", "file")


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ("[[script]]\nsnd = 1\n", 'script[0].snd: unknown key "snd"'),
        ("[[script]]\nenter = true\n", "script[0]: it neither waits for anything nor types anything"),
        ('[[script]]\nsend = "{secret.gone}"\n', "script[0].send: nothing is known of {secret.gone}"),
        ('[[script]]\nsend = "{login.user}"\n', "script[0].send: nothing is known of {login.user}"),
        ("[vm.x]\n", 'vm: unknown table "vm"'),
        ("", "has no step"),
        ("[[script", "at the end: expected ']]' at the end of an array declaration"),
    ],
)
def test_what_is_wrong_in_another_file_is_said_of_that(tmp_path: Path, steps: str, error: str) -> None:
    (tmp_path / "steps.toml").write_text(steps)
    with pytest.raises(ConfigError) as caught:
        resolved('[vm.web]\nlogin.recipe = "./steps.toml"\n', tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/steps.toml: {error}")


def test_whoever_has_a_script_only_in_a_file_is_ready_when_that_is_done(tmp_path: Path) -> None:
    text = '[vm.web]\nready = "script"\nlogin.recipe = "tiny"\n'
    assert resolved(text, tmp_path).vms[0].ready is not None
