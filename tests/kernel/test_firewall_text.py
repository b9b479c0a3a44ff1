"""The text of a network's rules is one that nft reads."""

from __future__ import annotations

import subprocess

import pytest

from qemunet.model.network import Firewall, NetworkMode, OwnBridge
from tests import namespace
from tests.unit import test_plan_firewall as texts


@pytest.mark.root
@pytest.mark.parametrize(("mode", "rules", "switch"), texts.CASES)
def test_nft_reads_it(mode: NetworkMode, rules: Firewall | None, switch: OwnBridge) -> None:
    """Also when the table is there, and as a script would have it."""
    if why := namespace.lack():
        pytest.skip(why)
    step = texts.table(mode, rules, switch)
    with namespace.fresh_namespace():
        for _ in range(2):
            subprocess.run(["nft", "-f", "-"], input=step.transaction, text=True, check=True)
        subprocess.run(["nft", "delete", "table", "inet", step.name], check=True)
        subprocess.run(["sh", "-c", *step.shell()], check=True)
