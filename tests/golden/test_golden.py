"""Each folder is a lab, a photograph of a host, and what has to come out: the plan, the command lines, the script.

``pytest tests/golden --update-golden`` writes what comes out; read the difference before you commit it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.plan import build, links, shell, text
from qemunet.steps import (
    AddLink,
    Handle,
    LoadTable,
    Mark,
    OpenOverlay,
    OpenSocket,
    OpenTap,
    Plan,
    Reserve,
    StartDaemon,
    StartQemu,
    Step,
    TakeAddress,
    TakeRoute,
    VethLink,
    Word,
    WriteFile,
)
from qemunet.testing import facts_json

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/lab.toml"))
PLACE = "/lab/lab.toml"  # where the lab lies on the host of the photograph
LAUNCH = HERE / "launch.py"


@dataclass(frozen=True)
class Outcome:
    lab: Lab
    plan: Plan

    def steps(self) -> Iterator[Step]:
        return (step for part in self.plan.parts() for step in part.steps)

    def starts(self) -> list[StartQemu]:
        return [step for step in self.steps() if isinstance(step, StartQemu)]

    def tables(self) -> list[LoadTable]:
        return [step for step in self.steps() if isinstance(step, LoadTable)]

    def daemons(self) -> list[StartDaemon]:
        return [step for step in self.steps() if isinstance(step, StartDaemon) and step.name == "dnsmasq"]

    def files(self, daemon: StartDaemon) -> dict[str, str]:
        """What a daemon reads, by its path in the daemon's own directory."""
        own = f"{daemon.directory}/{daemon.name}/"
        written = [step for step in self.steps() if isinstance(step, WriteFile) and step.path.startswith(own)]
        told = [step for step in self.steps() if isinstance(step, Reserve) and step.directory == daemon.directory]
        return {step.path.removeprefix(own): step.text for step in (*written, *told)}


def photograph(folder: Path) -> Facts:
    return facts_json.loads((folder / "facts.json").read_text())


def outcome(folder: Path) -> Outcome:
    facts = photograph(folder)
    spec = read.loads((folder / "lab.toml").read_text(), PLACE)
    names = [vm.name for vm in spec.vms]
    lab = resolve.resolve(spec, profiles.load_all(spec), facts, names, strict=True)
    up = {scope: shared_fingerprint(lab, scope, text) for scope, text in facts.scopes.items()}
    return Outcome(lab, build(lab, replace(facts, scopes=up)))


def shared_fingerprint(lab: Lab, scope: str, text: str) -> str:
    """A photograph that says "equal" stands for one of the same network; no number has to be kept up to date."""
    return links.network_fingerprint(lab.network(scope.removeprefix("net/"))) if text == "equal" else text


def expect(folder: Path, name: str, found: str, request: pytest.FixtureRequest) -> None:
    """An empty one is no file."""
    path = folder / name
    if request.config.getoption("--update-golden"):
        path.write_text(found)
        if not found:
            path.unlink()
    expected = path.read_text() if found or path.exists() else ""
    difference = difflib.unified_diff(expected.splitlines(), found.splitlines(), str(path), "found", lineterm="")
    assert found == expected, "\n".join(difference)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_a_lab_gives_the_expected_plan(folder: Path, request: pytest.FixtureRequest) -> None:
    """What ``plan`` prints."""
    expect(folder, "plan.txt", text.text(outcome(folder).plan), request)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_a_lab_gives_the_expected_command_lines(folder: Path, request: pytest.FixtureRequest) -> None:
    """QEMU's command line under ``run``, an option a line."""
    lines = [line for start in outcome(folder).starts() for line in (*text.options(start.argv), "")]
    expect(folder, "argv.txt", "\n".join(lines), request)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_a_lab_gives_the_expected_rules(folder: Path, request: pytest.FixtureRequest) -> None:
    """The nft tables of all its networks, one after the other."""
    expect(folder, "rules.nft", "".join(table.rules for table in outcome(folder).tables()), request)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_a_lab_gives_the_expected_services(folder: Path, request: pytest.FixtureRequest) -> None:
    """What each network's dnsmasq reads, one after the other; the first line says whose it is."""
    found = outcome(folder)
    expect(folder, "dnsmasq.conf", "".join(found.files(one)["dnsmasq.conf"] for one in found.daemons()), request)


@pytest.mark.parametrize("folder", [path for path in CASES if (path / "plan.sh").exists()], ids=lambda path: path.name)
def test_a_lab_gives_the_expected_script(folder: Path, request: pytest.FixtureRequest) -> None:
    """What ``plan --shell`` prints."""
    found = outcome(folder)
    expect(folder, "plan.sh", shell.script(found.lab, found.plan), request)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_a_script_is_one_for_posix_shells(folder: Path, tmp_path: Path) -> None:
    """A shell without extensions reads the whole script."""
    script = tmp_path / "lab.sh"
    found = outcome(folder)
    script.write_text(shell.script(found.lab, found.plan))
    subprocess.run(["sh", "-n", script], check=True)


# ---------------------------------------------------------------- do nft and dnsmasq take it?

WITH_RULES = [path for path in CASES if (path / "rules.nft").exists()]
SERVED = [path for path in CASES if (path / "dnsmasq.conf").exists()]


@pytest.mark.root
@pytest.mark.parametrize("folder", WITH_RULES, ids=lambda path: path.name)
def test_nft_takes_the_rules(folder: Path) -> None:
    """Before any interface that they name is there."""
    for table in outcome(folder).tables():
        command = ["unshare", "--net", "nft", "--check", "--file", "-"]
        done = subprocess.run(command, input=table.transaction, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("folder", SERVED, ids=lambda path: path.name)
def test_dnsmasq_takes_its_configuration(folder: Path, tmp_path: Path) -> None:
    """By the very command line that it is started with, and with all that it reads."""
    found = outcome(folder)
    for daemon in found.daemons():
        own = tmp_path / daemon.where
        for name, content in found.files(daemon).items():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).write_text(content)
        argv = ["".join(part if isinstance(part, str) else str(own) for part in word.parts) for word in daemon.argv]
        done = subprocess.run([*argv, "--test"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "dnsmasq: syntax check OK.\n")


# ---------------------------------------------------------------- does QEMU take it?


def descriptor(handle: str, steps: list[Step]) -> dict[str, object]:
    """What stands for a handle, so that `launch.py` can open it."""
    name = handle.partition(":")[2]
    opening = next((step for step in steps if getattr(step, "handle", None) == handle), None)
    if name.endswith(".sock"):
        return {"kind": "socket"}
    if isinstance(opening, OpenSocket):
        return {"kind": "datagram" if opening.datagram else "listening" if opening.listen else "connected"}
    if opening is None or not hasattr(opening, "path"):
        queues = getattr(opening, "queues", 1)
        kind = "overlay" if isinstance(opening, OpenOverlay) else "tap"
        return {"kind": kind, "queues": queues, "multi": isinstance(opening, OpenTap) and queues > 1}
    return {"kind": "file", "path": opening.path, "writable": getattr(opening, "writable", False)}


def here(text: str, folder: Path) -> str:
    """The same on this machine: its own files, and no block device."""
    text = re.sub(r"/(lab|cache|dev/vg|usr/share/OVMF)/", rf"{folder}/", text)
    return text.replace('"driver":"host_device"', '"driver":"file"')


def arguments(argv: tuple[Word, ...], folder: Path) -> list[list[object]]:
    shown = [
        [{"handle": part.name} if isinstance(part, Handle) else here(part, folder) for part in argument.parts]
        for argument in argv
    ]
    options = {"-accel": ["tcg"], "-cpu": ["max"]}
    for number, argument in enumerate(shown[:-1]):
        shown[number + 1] = options.get(str(argument[0]) if argument else "", shown[number + 1])
    return shown


@pytest.mark.root
@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_qemu_takes_the_command_line(folder: Path, tmp_path: Path) -> None:
    """The installed QEMU makes the machine, the disks and the cards, and ends when its monitor says so."""
    found = outcome(folder)
    steps = list(found.steps())
    for start in found.starts():
        names = {part.name for argument in start.argv for part in argument.parts if isinstance(part, Handle)}
        order = {
            "argv": arguments(start.argv, tmp_path),
            "handles": {name: descriptor(name, steps) for name in sorted(names)},
            "files": sorted(here(path, tmp_path) for path in photograph(folder).files),
            "folder": str(tmp_path),
            **sockets(photograph(folder)),
        }
        done = in_namespace(order, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), "\n".join((*text.options(start.argv), done.stderr))


def sockets(facts: Facts) -> dict[str, object]:
    """The programs that QEMU finds: switches by their directories, backends of vhost-user by their sockets."""
    switches = [str(Path(path).parent) for path in facts.sockets if path.endswith("/ctl")]
    return {"switches": switches, "backends": [path for path in facts.sockets if not path.endswith("/ctl")]}


def carried(found: Outcome) -> list[list[str]]:
    """What puts on interfaces all that the plan takes from them: the opposite of its own words."""
    taking = [step for step in found.steps() if isinstance(step, TakeAddress | TakeRoute)]
    words = [step.shell()[0].split()[1:] for step in reversed(taking)]
    return [[one[0], "append" if one[0] == "route" else "replace", *one[2:]] for one in words]


@pytest.mark.root
@pytest.mark.parametrize("folder", [path for path in CASES if (path / "plan.sh").exists()], ids=lambda path: path.name)
def test_a_script_makes_the_links_of_the_plan_and_takes_them_back(folder: Path, tmp_path: Path) -> None:
    """With our marks, with a real QEMU, and without a trace afterwards."""
    found = outcome(folder)
    facts = photograph(folder)
    order = {
        "script": here(shell.script(found.lab, found.plan), tmp_path),
        "links": [(link.name, link.kind, link.mac) for link in facts.links.values() if link.name != "lo"],
        "addresses": {name: known for name, known in facts.addresses.items() if name != "lo"},
        "carried": carried(found),
        "routes": [["route", "add", "default", "via", "192.0.2.1"]] if "passt" in facts.programs else [],
        "files": sorted(here(path, tmp_path) for path in facts.files),
        "folder": str(tmp_path),
        **sockets(facts),
    }
    done = in_namespace(order, tmp_path)
    assert done.returncode == 0, done.stderr
    before, between, after, left = json.loads(done.stdout.splitlines()[-1])
    made = {step.name: [step.mark.altname] for step in found.steps() if isinstance(step, OpenTap)}
    linked = (end for step in found.steps() if isinstance(step, AddLink) for end in ends_here(step))
    made |= {name: [mark.altname] for name, mark in linked}
    made |= {f"table {table.family} {table.name}": [] for table in found.tables()}
    assert {name: names for name, names in between.items() if name not in before} == made
    assert (after, left) == (before, {})


def ends_here(step: AddLink) -> list[tuple[str, Mark]]:
    """The ends that are not in a namespace of the lab."""
    apart = isinstance(step.link, VethLink) and step.link.peer_netns
    return list(step.ends[:1] if apart else step.ends)


def in_namespace(order: dict[str, object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `launch.py` in a network namespace of its own, with a /run of its own: `ip netns` writes there."""
    if os.geteuid():
        pytest.skip("taps need root")
    if order["switches"] and shutil.which("vde_switch") is None:
        pytest.skip("there is no vde_switch")
    alone = 'mount -t tmpfs tmpfs /run && exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-c", alone, "sh", sys.executable, LAUNCH]
    return subprocess.run(command, input=here(json.dumps(order), folder), capture_output=True, text=True)
