"""What a vm that runs keeps of what its lab file leaves open, so that to make a file true twice is to do so once."""

from __future__ import annotations

import pytest

from qemunet.config import read
from qemunet.config.write import vm_toml
from qemunet.frozen import replace
from qemunet.live.running import settled
from qemunet.model.lab import Lab
from qemunet.plan.live import Change, Difference, differences

from .config_host import FACTS, lab

NETWORKS = """
[network.small]
mode = "private"
[network.large]
mode = "private"
mtu = 9000
[vm.a]
boot.kernel = "vmlinuz"
[[vm.a.nic]]
model = "virtio"
"""
SMALL, LARGE = (NETWORKS + f'network = "{name}"\n' for name in ("small", "large"))


def applied(running: str, text: str) -> tuple[str, tuple[Difference, ...]]:
    """Make the vm that was written down so what a file says; return how that is written down, and what it took."""
    before, found = lab(running, FACTS), lab(text, FACTS)
    shall = settled(read.loads(text, "/lab/lab.toml").vms[0], before.vms[0], found.vms[0])
    return vm_toml(Lab("lab", "/lab/lab.toml", (shall,), found.networks), shall), differences(before.vms[0], shall)


def started(text: str) -> str:
    found = lab(text, FACTS)
    return vm_toml(found, found.vms[0])


@pytest.mark.parametrize(
    ("first", "second"),
    [(SMALL, LARGE), (LARGE, SMALL), (SMALL, LARGE + "mtu = 1500\n"), (LARGE, LARGE + "mtu = 1400\n")],
)
def test_a_file_that_was_made_true_is_true(first: str, second: str) -> None:
    """However large the packets are that the guest goes on to use."""
    written, some = applied(started(first), second)
    assert len(some) == 1
    assert applied(written, second)[1] == ()


def test_a_card_that_came_back_is_as_if_it_had_never_gone() -> None:
    """There and back are changes in place."""
    there, some = applied(started(SMALL), LARGE)
    back, others = applied(there, SMALL)
    assert [type(one) for one in (*some, *others)] == [Change, Change]
    assert applied(back, SMALL)[1] == ()


def test_what_is_compared_is_the_vm_of_the_file() -> None:
    """Cards that come have nothing to keep."""
    before = replace(lab(SMALL, FACTS).vms[0], nics=())
    (vm,) = lab(LARGE, FACTS).vms
    assert settled(read.loads(LARGE, "/lab/lab.toml").vms[0], before, vm) == vm
