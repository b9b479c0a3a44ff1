"""What a bridge with ports is planned to do, on a host in memory: nothing is lost, whatever step fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet import runner
from qemunet.config import profiles, read, resolve
from qemunet.errors import StepFailed
from qemunet.frozen import replace
from qemunet.journal import Journal
from qemunet.model.network import OwnBridge
from qemunet.plan import networks
from qemunet.plan.netlive import target
from qemunet.plan.ports import remembered, uplink_of
from qemunet.steps import PutAddress, PutRoute, Step
from qemunet.testing import facts_json
from qemunet.testing.fake import FakeHost

GOLDEN = Path(__file__).parents[1] / "golden"


def planned(case: str) -> tuple[FakeHost, tuple[Step, ...]]:
    """A host as in a golden folder, and what makes its network."""
    facts = facts_json.loads((GOLDEN / case / "facts.json").read_text())
    spec = read.loads((GOLDEN / case / "lab.toml").read_text(), "/lab/lab.toml")
    lab = resolve.resolve(spec, profiles.load_all(spec), facts)
    return FakeHost(facts), networks(lab, ["lan"], facts)["lan"][-1].steps


@pytest.mark.parametrize("case", ["ports", "move-address"])
def test_whatever_step_fails_everything_is_as_it_was(case: str, tmp_path: Path) -> None:
    """And also if none does."""
    _, steps = planned(case)
    for number in range(1, len(steps) + 2):
        host, steps = planned(case)
        before = host.picture()
        journal = Journal(str(tmp_path / f"{number}.jsonl"))
        if number <= len(steps):
            host.fail_at(number, OSError(5, "injected"))
            with pytest.raises(StepFailed):
                runner.apply(steps, host.facts, host, journal)
        else:
            runner.apply(steps, host.facts, host, journal)
            assert host.picture() != before
        assert runner.unwind(journal, host) == []
        journal.close()
        assert host.picture() == before


def test_what_cannot_be_given_back_stays_where_it_is_until_it_can(tmp_path: Path) -> None:
    """The host is cut off by nobody who tries in vain."""
    host, steps = planned("move-address")
    before = host.picture()
    journal = Journal(str(tmp_path / "journal.jsonl"))
    runner.apply(steps, host.facts, host, journal)
    host.fail_at(2, OSError(5, "injected"))
    assert len(runner.unwind(journal, host)) == 1
    assert host.links["eth0"].master == "br0"
    assert host.addresses["br0"]
    assert runner.unwind(journal, host) == []
    assert host.picture() == before


def test_a_bridge_that_is_made_again_gets_what_the_one_before_had(tmp_path: Path) -> None:
    """From the journal, for the interface has nothing any more."""
    host, steps = planned("move-address")
    journal = Journal(str(tmp_path / "journal.jsonl"))
    runner.apply(steps, host.facts, host, journal)
    bare = replace(host.facts, carried={"eth0": host.carried("eth0")})
    switch = OwnBridge("br0", "", 1500, False, 0, 300, (), ports=("eth0",), move_address=True)
    assert uplink_of(switch, bare) is None
    facts = remembered([one.undo for one in journal.owed()], bare)
    assert uplink_of(switch, facts) == "eth0"
    wanted = host.facts.carried["eth0"]
    assert set(facts.carried["eth0"].addresses) >= {one for one in wanted.addresses if not one.is_link_local}
    assert {one.destination for one in facts.carried["eth0"].routes} == {
        step.route.destination for step in steps if isinstance(step, PutRoute)
    }
    assert any(isinstance(step, PutAddress) for step in steps)


def test_ports_do_not_change_while_guests_are_on_them() -> None:
    """It is said, and left as it is."""
    facts = facts_json.loads((GOLDEN / "ports" / "facts.json").read_text())
    spec = read.loads((GOLDEN / "ports" / "lab.toml").read_text(), "/lab/lab.toml")
    old = resolve.resolve(spec, profiles.load_all(spec), facts).network("lan")
    assert isinstance(old.switch, OwnBridge)
    new = replace(old, switch=replace(old.switch, ports=("eth1",), mtu=9000))
    found = target(old, new)
    assert found.network == old
    assert [line.what for line in found.lines] == ["ports: eth1, eth2 to eth1", "mtu: 1500 to 9000"]
