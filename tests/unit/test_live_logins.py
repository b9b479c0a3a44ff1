"""Every recipe gets to the prompt of a terminal that asks as such systems do, and says so when it is not let in."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.facts import Facts
from qemunet.live import secrets
from qemunet.live.script import State
from qemunet.model.script import ScriptStep
from tests.unit.test_live_console import Bench
from tests.unit.test_live_script import played

FACTS = Facts(runtime="/run/qemunet", machine_id="", uid=0, can_switch_user=False)
ASK = """
while :; do
    printf '%s' "$ask"; read -r user
    printf '%s' "$pass"; stty -echo; read -r word; stty echo; printf '\\n'
    [ "$user $word" = "anna hunter2" ] && break
    sleep 0.1; printf '%s\\n' "$no"
done
"""
AT_HOME = """printf '%s' "$prompt"; read -r line; echo "did $line"; exec cat"""
TERMINALS = {
    "debian": """
printf '\\033[H\\033[J[    1.0] random: crng init done\\n\\nDebian GNU/Linux 12 web ttyS0\\n\\n'
ask='web login: ' pass='Password: ' no='
Login incorrect' prompt="$(printf '\\033[?2004hanna@web:~$ ')" """
    + ASK
    + "printf 'Last login: Mon Jun  1 on ttyS0\\n'\n"
    + AT_HOME,
    "alpine": """
printf '\\nWelcome to Alpine Linux 3.20\\nKernel 6.6 on an x86_64 (/dev/ttyS0)\\n\\n'
ask='localhost login: ' pass='Password: ' no='Login incorrect' prompt='localhost:~# ' """
    + ASK
    + AT_HOME,
    "router": """
ask='User Access Verification

Username: ' pass='Password:' no='% Access denied' prompt='core-1>' """
    + ASK
    + AT_HOME,
    "tiny": "prompt='web:~# '; printf 'ready: web\\n';" + AT_HOME,
}
UNGUARDED = (
    """
printf '\\nWelcome to Alpine Linux 3.20\\n\\nlocalhost login: '; read -r user; prompt='localhost:~# '; """
    + AT_HOME
)


def steps_of(recipe: str, password: str = 'password = { env = "PW" }\n') -> tuple[ScriptStep, ...]:
    text = f'[vm.web]\n[vm.web.login]\nrecipe = "{recipe}"\nuser = "anna"\n{password}'
    text += '[[vm.web.script]]\nsend = "some work"\n[[vm.web.script]]\nexpect = "did some work"\n'
    spec = read.loads(text, "/lab/lab.toml")
    return resolve.resolve(spec, profiles.load_all(spec), FACTS, strict=False).vms[0].script


@contextmanager
def terminal(program: str) -> Iterator[int]:
    """A program on a terminal of its own; what is yielded is the other end."""
    ours, theirs = os.openpty()
    words = ["setsid", "-c", "sh", "-c", program]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            yield ours
        finally:
            process.kill()
            process.wait()
            os.close(ours)


async def joined(bench: Bench, line: int) -> None:
    """Let the terminal be what QEMU has at the other end, until its script has gone."""
    loop = asyncio.get_running_loop()

    def from_terminal() -> None:
        bench.qemu.send(os.read(line, 4096))

    def to_terminal() -> None:
        os.write(line, bench.qemu.recv(4096))

    loop.add_reader(line, from_terminal)
    loop.add_reader(bench.qemu, to_terminal)
    await bench.until(lambda: bool(bench.console._clients))
    async with asyncio.timeout(60):
        while bench.console._clients:  # noqa: ASYNC110 - what it waits for is not ours to signal
            await asyncio.sleep(0.01)
    loop.remove_reader(line)
    loop.remove_reader(bench.qemu)


@pytest.mark.parametrize("recipe", sorted(TERMINALS))
def test_it_gets_to_the_prompt(tmp_path: Path, recipe: str) -> None:
    secrets.keep(str(tmp_path), {"login.password": "hunter2"})
    with terminal(TERMINALS[recipe]) as line:
        found = played(tmp_path, steps_of(recipe), lambda bench: joined(bench, line))
    assert (found.state, found.text) == (State.DONE, "its script is done")


def test_root_of_an_alpine_without_a_password_comes_in_by_name(tmp_path: Path) -> None:
    with terminal(UNGUARDED) as line:
        found = played(tmp_path, steps_of("alpine", ""), lambda bench: joined(bench, line))
    assert found.state is State.DONE


@pytest.mark.parametrize(
    ("recipe", "said"), [("debian", "Login incorrect"), ("alpine", "Login incorrect"), ("router", "% Access denied")]
)
def test_a_wrong_password_is_said_at_once(tmp_path: Path, recipe: str, said: str) -> None:
    secrets.keep(str(tmp_path), {"login.password": "wrong"})
    with terminal(TERMINALS[recipe]) as line:
        found = played(tmp_path, steps_of(recipe), lambda bench: joined(bench, line))
    assert found.state is State.FAILED
    assert found.text.startswith("step 3 of 5 of its script: it said what ")
    assert said in found.text
