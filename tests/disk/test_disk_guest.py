"""An installed system does what a lab file says of it: it gets its lease, is logged into, reached, and shut down."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.disk.image import NAME, PASSWORD
from tests.guest.cards import Stage, empty_stage, until

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 550  # seconds
LAB = f"""
[lab]
name = "office"

[network.lan]
mode = "nat"
address = ["10.45.0.1/24"]
dhcp = true
forward = ["tcp:10.45.0.1:2222:{NAME}:22"]

[vm.{NAME}]
memory = "256M"
accel = "tcg"
nic = [{{ network = "lan", ip = ["10.45.0.7/24"] }}]
disk = [{{ file = "{NAME}.qcow2" }}]

[[vm.{NAME}.script]]
expect = "login: "
fail = "(?i)kernel panic|emergency mode"
send = "root"
timeout = "400s"
[[vm.{NAME}.script]]
expect = "assword: "
send = "{PASSWORD}"
[[vm.{NAME}.script]]
expect = '# $'
send = "mkdir -p .ssh; echo KEY >.ssh/authorized_keys; echo do''ne with {{vm.name}}"
timeout = "120s"
[[vm.{NAME}.script]]
expect = "done with box"
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The lab is up, and that is all that was done."""
    folder = tmp_path_factory.mktemp("disk")
    base = os.environ["QEMUNET_DISK_GUEST"]
    disk = folder / f"{NAME}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", str(disk)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    key = (folder / "key.pub").read_text().strip()
    with empty_stage(folder) as stage:
        file = str(stage.scene.write(LAB.replace("KEY", key)))
        patiently(stage, "up", file, "--wait", "ready", "--wait", "dhcp", "--timeout", "500s")
        yield stage


def patiently(stage: Stage, *words: str) -> list[str]:
    """Give a command that waits for the guest: it boots in 20 s, and in ten times that on a busy machine."""
    process = stage.begin(*words)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said.splitlines()


def ssh(stage: Stage, *words: str) -> str:
    """Run a command in the guest by way of the forward, as anybody would."""
    options = [f"UserKnownHostsFile={stage.scene.folder}/known", "StrictHostKeyChecking=accept-new", "BatchMode=yes"]
    argv = ["ssh", "-F", "none", "-i", str(stage.scene.folder / "key"), "-p", "2222"]
    argv += [word for option in options for word in ("-o", option)]
    done = subprocess.run([*argv, "root@10.45.0.1", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_its_lease(stage: Stage) -> None:
    (lease,) = json.loads(stage.succeeds("net", "leases", "--json").stdout)
    assert (lease["vm"], lease["nic"], lease["hostname"]) == (NAME, "net0", NAME)
    status = json.loads(stage.succeeds("status", NAME, "--json").stdout)
    assert lease["ip"] in str(status["nics"][0]["ip"])


def test_the_script_has_logged_in_and_ssh_gets_in_by_the_forward(stage: Stage) -> None:
    """It is an installed system: systemd runs it, the root file system is on its disk."""
    assert ssh(stage, "cat /proc/1/comm /etc/hostname; findmnt -no SOURCE /").split() == ["systemd", NAME, "/dev/vda1"]
    until(lambda: ssh(stage, "systemctl is-system-running || true").strip() != "starting", "it has started")
    assert ssh(stage, "systemctl --failed --no-legend") == ""


def test_a_card_that_is_plugged_in_gets_a_lease_as_well(stage: Stage) -> None:
    """The system finds it, names it and asks for an address."""
    card = stage.add(NAME, "--network", "lan")

    def lent() -> bool:
        found = json.loads(stage.succeeds("net", "leases", "--json").stdout)
        return any(one["mac"] == card["mac"] for one in found)

    until(lent, "the second card has an address")
    stage.remove(NAME, card["id"])


def test_it_shuts_down_when_the_button_is_pressed(stage: Stage) -> None:
    """By itself and in order, as its last words tell."""
    with (stage.scene.runtime / "vm" / NAME / "console.log").open(errors="replace") as log:
        said = patiently(stage, "down", "office", "--timeout", "200s")
        assert "Power down" in log.read()
    assert said == [f"{NAME}: stopping", f"{NAME}: ended (powered off)"]
