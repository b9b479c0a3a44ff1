"""A live change comes true as a whole or leaves nothing, wherever it fails or its keeper is killed."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemunet import plan, runner
from qemunet.config.write import vm_toml
from qemunet.errors import NotFound, NotTakenBack, StepFailed
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.host import files
from qemunet.journal import Journal
from qemunet.live import session
from qemunet.live.change import Change
from qemunet.live.record import record
from qemunet.live.running import Comparison
from qemunet.live.seats import Seats
from qemunet.live.sheets import of_shared
from qemunet.locks import Lock
from qemunet.model.lab import Lab
from qemunet.model.network import Dhcp, Firewall, Masquerade, Network, NetworkMode, OwnBridge, Services
from qemunet.model.nic import Hook, LinkState, Nic, OnNetwork, TapBackend, UserBackend
from qemunet.model.vm import Accel, DirectBoot, Firmware, Machine, NicBus, Vm
from qemunet.state import Runtime, Scope
from qemunet.steps import AddCard, Claim, DelLink, RunHook, Step, Unclaim
from qemunet.testing.fake import FakeHost

LAB_BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:00:01", 1500, stp=False, forward_delay=0, ageing=300, addresses=())
OTHER_BRIDGE = replace(LAB_BRIDGE, ifname="qn-other", mac="52:54:00:aa:00:02", mtu=9000)
NETWORKS = tuple(Network(switch.ifname[3:], NetworkMode.PRIVATE, switch) for switch in (LAB_BRIDGE, OTHER_BRIDGE))
SERVICES = Services(Dhcp("10.0.0.128", "10.0.0.254", 3600, gateway=True), None, None, (), 1500)
RULES = Firewall(None, Masquerade(), (), ("dhcp",))
SERVED = tuple(
    Network(one.name, NetworkMode.NAT, replace(one.switch, addresses=(address,)), services=SERVICES, firewall=RULES)
    for one, address in zip(NETWORKS, ("10.0.0.1/24", "10.0.1.1/24"), strict=True)
)
ON_LAB = TapBackend("qn-a-net0", 1500, OnNetwork("lab", "qn-lab"))
ON_OTHER = TapBackend("qn-a-net0", 9000, OnNetwork("other", "qn-other"))
NET0 = Nic("net0", "virtio-net-pci", "52:54:00:00:00:01", ON_LAB)
NET1 = Nic(
    "net1", "virtio-net-pci", "52:54:00:00:00:02", replace(ON_OTHER, ifname="qn-a-net1"), hook=Hook("/up", "/down")
)
Q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 2, "host", "")
HOOKS = ("/up", "/down")


class Killed(BaseException):
    """The keeper is gone from one moment to the next."""


class Host(FakeHost):
    """A fake host whose claims are files, as the runtime directory wants them. It can be the death of its user."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.files |= dict.fromkeys(HOOKS, "")
        self.monitors = {"a": Monitor(self)}
        self.deadly = 0  # of the steps to come, the number of that after which nothing is done any more

    def perform(self, step: Step) -> None:
        super().perform(step)
        if isinstance(step, Claim):
            files.claim(step)
        elif isinstance(step, Unclaim):
            files.unclaim(step)
        self.deadly -= 1
        if self.deadly == 0:
            raise Killed

    def whole(self) -> dict[str, object]:
        """All there is to be seen, QEMU's side included."""
        guest = self.guests["a"]
        return {
            **self.picture(),
            "cards": set(guest.cards),
            "netdevs": set(guest.netdevs),
            "cables": self.carriers_out(),
        }

    def carriers_out(self) -> set[str]:
        out = {name for name, on in self.carriers.items() if not on and name in self.links}
        return out | {nic for (_, nic), up in self.cables.items() if not up and nic in self.guests["a"].cards}


class Monitor:
    """Tells of the cards that the fake QEMU has, each in the port where it was plugged in."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def execute(self, command: str, **arguments: object) -> object:
        path = str(arguments["path"])
        seats = self.seats()
        if command == "qom-get":
            found = {"parent_bus": f"/x/{seats[path.rpartition('/')[2]]}", "legacy-addr": "00.0"}
            return found.get(str(arguments["property"]), "")
        if path == "/machine/peripheral":
            kinds = dict.fromkeys(seats, "virtio-net-pci") | {f"rp.{n}": "pcie-root-port" for n in range(3)}
            return [{"name": name, "type": f"child<{kind}>"} for name, kind in kinds.items()]
        here = [nic for nic, seat in seats.items() if path.endswith(f"/{seat}")]
        return [{"name": f"child[{n}]", "type": "link<virtio-net-pci>"} for n, _ in enumerate(here)]

    def seats(self) -> dict[str, str]:
        plugged = {
            step.nic: json.loads(str(step.properties))["bus"]
            for step in self.host.performed
            if isinstance(step, AddCard)
        }
        return {nic: plugged.get(nic, "rp.0") for nic in sorted(self.host.guests["a"].cards)}

    def give(self, fd: int, name: str | None = None) -> str:
        raise NotImplementedError

    def forget(self, name: str) -> None:
        raise NotImplementedError

    def unplug(self, nic: str) -> None:
        raise NotImplementedError


class Scene:
    """A guest that runs, with one card on the network lab."""

    networks = NETWORKS

    def __init__(self, path: Path) -> None:
        self.runtime = Runtime(str(path))
        self.host = Host(Facts(str(path), "m", 0, can_switch_user=True))
        self.scope = self.runtime.scope("vm/a")
        self.vm = Vm("a", Q35, 1 << 27, 1, Accel.TCG, DirectBoot("/k", "/i", ""), Firmware.BIOS, (), (NET0,))
        self.lab = Lab("pair", "/l/pair.toml", (self.vm,), self.networks)
        self.lock = self.start()

    def start(self) -> Lock:
        facts = self.facts()
        start = plan.build(self.lab, facts)
        with self.runtime.exclusive():
            self.scope.create()
            lock = Lock.take(self.scope.path("lock"), create=True)
            journal = self.scope.journal()
            for part in start.shared:
                session.make_shared(self.runtime, self.host, part, facts, of_shared(self.lab, part.scope))  # type: ignore[arg-type]
            for part in (*start.own, *start.start):
                runner.apply(part.steps, facts, self.host, journal, about=part.about)
            journal.close()
        Path(self.scope.path("vm.toml")).write_text(vm_toml(self.lab, self.vm))
        self.scope.save(replace(record(self.lab, self.vm, facts), started=True, state="running"))
        assert lock is not None
        return lock

    def facts(self) -> Facts:
        wanted = Wanted(links=frozenset({"qn-lab", "qn-other", "qn-a-net0", "qn-a-net1"}))
        return replace(self.host.photograph(wanted), claims=self.runtime.claims(), scopes=self.runtime.shared())

    def found(self, *nics: Nic) -> Comparison:
        old = replace(self.vm, nics=self.nics())
        return Comparison(self.lab, old, replace(old, nics=nics), self.facts())

    def nics(self) -> tuple[Nic, ...]:
        known = {"net0": NET0, "net1": NET1}
        return tuple(known[row.id] for row in self.runtime.vm("a").nics)

    def change(self) -> Change:
        return Change(self.runtime, self.host, "a")  # type: ignore[arg-type]

    def state(self) -> dict[str, object]:
        """What a change may change: the host, QEMU, and the runtime directory but for how journals say it."""
        base = Path(self.runtime.path)
        told = {str(path.relative_to(base)): path.read_text() for path in sorted(base.rglob("*")) if path.is_file()}
        told = {name: text.replace(self.runtime.path, "RUN") for name, text in told.items()}
        return {**self.host.whole(), "told": {name: text for name, text in told.items() if "journal" not in name}}

    def owed(self) -> list[tuple[str, str]]:
        journal = self.scope.journal()
        found = [(one.about, one.undo.describe()) for one in journal.owed(started=True)]
        assert journal.unfinished() == []
        assert journal.overdue() == []
        journal.close()
        return found

    def let_go(self) -> None:
        """Close what was opened, as a host that is made for one change does in the end."""
        self.host.close()

    # ------------------------------------------------------------ changes

    def add(self, change: Change) -> None:
        change.add(lambda: self.found(NET0, NET1), "net1")

    def move(self, change: Change) -> None:
        new = replace(NET0, backend=ON_OTHER)
        change.alter(lambda: self.found(new), "net0")

    def pull(self, change: Change) -> None:
        new = replace(NET0, link=LinkState.DOWN)
        change.alter(lambda: self.found(new), "net0")

    def forget(self, change: Change) -> None:
        change.forget(self.found(NET0), "net1")


class Served(Scene):
    """The host serves both networks."""

    networks = SERVED

    def move_on(self, change: Change) -> None:
        self.move(change)

    def reservations(self) -> dict[str, str]:
        base = f"{self.runtime.path}/net/"
        return {name.removeprefix(base): text for name, text in self.host.files.items() if "hosts/a." in name}


Work = Callable[[Scene, Change], None]
CHANGES: list[Work] = [Scene.add, Scene.move, Scene.pull, Served.move_on]  # type: ignore[list-item]


def of(work: Work) -> str:
    return getattr(work, "__name__", "")


def made_for(work: Work, tmp_path: Path) -> Scene:
    return (Served if of(work) == "move_on" else Scene)(tmp_path / "run")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "run")
    yield made
    made.lock.release()


def done(scene: Scene, work: Work) -> None:
    try:
        with scene.change() as change:
            work(scene, change)
    finally:
        scene.let_go()


def whole_of(tmp_path: Path, work: Work) -> dict[str, object]:
    """What is when a change has come true; of a scene at the very place where others will be."""
    scene = made_for(work, tmp_path)
    done(scene, work)
    found = scene.state()
    scene.lock.release()
    (tmp_path / "run").rename(tmp_path / "whole")
    return found


def killed(scene: Scene, work: Work) -> bool:
    """Do a change and be killed in it; tell whether it came so far. The locks go with the process."""
    change = scene.change()
    change.__enter__()
    try:
        work(scene, change)
    except Killed:
        return True
    else:
        return False
    finally:
        scene.host.deadly = 0
        change._journal.close()
        change._right.release()
        scene.let_go()


def recovered(scene: Scene) -> None:
    """What the next one who changes anything finds."""
    with scene.change() as change:
        assert change.failures == []


# ---------------------------------------------------------------- what comes true


def test_a_card_that_was_added_is_known_and_has_its_own_way_back(scene: Scene) -> None:
    with scene.change() as change:
        row = change.add(lambda: scene.found(NET0, NET1), "net1")
    assert (row.id, row.slot, row.network, row.ifname, row.state) == ("net1", "rp.1", "other", "qn-a-net1", "plugged")
    assert [one.id for one in scene.runtime.vm("a").nics] == ["net0", "net1"]
    assert 'id = "net1"' in Path(scene.scope.path("vm.toml")).read_text()
    assert scene.host.hooks == [("/up", "qn-a-net1")]
    assert scene.host.links["qn-a-net1"].master == "qn-other"
    assert scene.runtime.scope("net/other").users() == ("a",)
    about = [what for card, what in scene.owed() if card == "net1"]
    assert about[:3] == ["unplug net1 from a", "take the backend host-net1 from a", "run /down qn-a-net1"]


def test_a_card_that_moved_gives_up_its_old_network(scene: Scene) -> None:
    """Which goes with its last user; nothing leads back any more."""
    done(scene, Scene.move)
    assert "qn-lab" not in scene.host.links
    assert (scene.host.links["qn-a-net0"].master, scene.host.links["qn-a-net0"].mtu) == ("qn-other", 9000)
    row = scene.runtime.vm("a").card("net0")
    assert (row.network, row.bridge, row.slot) == ("other", "qn-other", "rp.0")
    assert [scope.name for scope in scene.runtime.scopes("net")] == ["net/other"]
    assert scene.host.carriers_out() == set()
    assert not [what for _, what in scene.owed() if "cable" in what or "carrier" in what or "plug" in what]


def test_a_reservation_moves_with_its_card(tmp_path: Path) -> None:
    """The network that it was on goes, with its dnsmasq and its rules; the other one has been told."""
    scene = Served(tmp_path / "run")
    assert [*scene.reservations()] == ["lab/dnsmasq/hosts/a.net0"]
    done(scene, Scene.move)
    assert scene.reservations() == {"other/dnsmasq/hosts/a.net0": "52:54:00:00:00:01,a\n"}
    assert [directory.rpartition("/")[2] for _, directory in scene.host.daemons] == ["other"]
    assert len(scene.host.tables) == 1
    assert [what for card, what in scene.owed() if card == "net0" and "dnsmasq" in what] == [
        "take hosts/a.net0 from dnsmasq"
    ]
    scene.lock.release()


def test_a_cable_that_was_pulled_stays_out_at_both_ends(scene: Scene) -> None:
    done(scene, Scene.pull)
    assert scene.host.carriers_out() == {"net0", "qn-a-net0"}
    assert scene.runtime.vm("a").card("net0").link == "down"


def test_a_card_that_is_gone_leaves_nothing(scene: Scene) -> None:
    """The user's program is run while the interface is there; what was before the card is as it was."""
    before, owed = scene.state(), scene.owed()
    done(scene, Scene.add)
    scene.host.guests["a"].cards.remove("net1")
    start = len(scene.host.performed)
    done(scene, Scene.forget)
    kinds = [type(step) for step in scene.host.performed[start:]]
    assert kinds.index(RunHook) < kinds.index(DelLink)
    assert scene.host.hooks[-1] == ("/down", "qn-a-net1")
    assert scene.state() == before
    assert scene.owed() == owed


def test_a_state_of_a_card_is_noted(scene: Scene) -> None:
    with scene.change() as change:
        change.note("net0", "unplugging")
    assert scene.runtime.vm("a").card("net0").state == "unplugging"


# ---------------------------------------------------------------- what does not


@pytest.mark.parametrize("work", CHANGES, ids=of)
def test_a_change_that_fails_at_any_step_leaves_nothing(tmp_path: Path, work: Work) -> None:
    """Neither on the host, nor in QEMU, nor on record. If it was final, the next one finishes it."""
    whole = whole_of(tmp_path, work)
    for number in range(1, 40):
        scene = made_for(work, tmp_path)
        before, owed = scene.state(), scene.owed()
        scene.host.fail_at(number, OSError(errno.EIO, "Input/output error"))
        try:
            done(scene, work)
        except NotTakenBack:
            recovered(scene)
            assert scene.state() == whole
        except StepFailed:
            assert scene.state() == before, f"failed at step {number}"
            assert scene.owed() == owed
        else:
            scene.lock.release()
            assert number > 2
            return
        scene.lock.release()
        (tmp_path / "run").rename(tmp_path / f"old{number}")
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("work", CHANGES, ids=of)
def test_a_change_that_was_killed_after_any_step_is_taken_back_by_the_next(tmp_path: Path, work: Work) -> None:
    """Or it was final, and is finished."""
    whole = whole_of(tmp_path, work)
    for number in range(1, 40):
        scene = made_for(work, tmp_path)
        before = scene.state()
        scene.host.deadly = number
        was_killed = killed(scene, work)
        recovered(scene)
        final = scene.state() != before
        assert not final or scene.state() == whole, f"killed after step {number}"
        assert final or was_killed
        scene.owed()
        scene.lock.release()
        if not was_killed:
            return
        (tmp_path / "run").rename(tmp_path / f"old{number}")
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("work", CHANGES, ids=of)
@pytest.mark.parametrize(
    ("name", "final"),
    [("Scope.draft_text", False), ("Scope.draft", False), ("Journal.commit", True), ("Scope.publish", True)],
)
@pytest.mark.parametrize("after", [False, True])
def test_the_line_that_makes_it_final_decides(
    tmp_path: Path, work: Work, name: str, final: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper is killed around each of the writes by which a change becomes true."""
    whole = whole_of(tmp_path, work)
    scene = made_for(work, tmp_path)
    before = scene.state()
    owner, _, method = name.partition(".")
    kind = {"Scope": Scope, "Journal": Journal}[owner]
    original = getattr(kind, method)
    change = scene.change()
    change.__enter__()
    with monkeypatch.context() as patch:

        def deadly(*arguments: object, **named: object) -> None:
            if after:
                original(*arguments, **named)
            raise Killed

        patch.setattr(kind, method, deadly)
        with pytest.raises(Killed):
            work(scene, change)
    change._journal.close()
    change._right.release()
    recovered(scene)
    happened = final and (after or name != "Journal.commit")
    assert scene.state() == (whole if happened else before)
    scene.owed()
    scene.lock.release()


def test_a_vm_that_does_not_run_is_not_changed(scene: Scene) -> None:
    """And the right to work on it is given up at once."""
    scene.lock.release()
    with pytest.raises(NotFound, match=r"vm\.a: it does not run any more"), scene.change():
        raise AssertionError
    right = scene.scope.busy()
    assert right is not None
    right.release()
    lock = Lock.take(scene.scope.path("lock"), create=True)
    assert lock is not None
    scene.lock = lock


def test_a_place_that_was_left_lately_is_taken_at_last(scene: Scene) -> None:
    """By what the keeper remembers; whoever waits for the card finds it among the new ones."""
    seats = Seats()
    seats.leave("a", "net0", "rp.1")
    with Change(scene.runtime, scene.host, "a", seats) as change:  # type: ignore[arg-type]
        card = replace(NET1, backend=UserBackend(), hook=Hook())
        assert change.add(lambda: scene.found(NET0, card), card.id).slot == "rp.2"
    newcomer = seats.newcomer("a", "net1")
    assert newcomer is not None
    assert (newcomer.slot, newcomer.second_hand) == ("rp.2", False)


def test_the_place_of_a_card_that_has_just_gone_is_taken_at_last(scene: Scene) -> None:
    """It is still on record, and nobody has said yet that it is gone."""
    scene.host.guests["a"].cards.remove("net0")
    card = replace(NET1, backend=UserBackend(), hook=Hook())
    with scene.change() as change:
        assert change.add(lambda: scene.found(NET0, card), card.id).slot == "rp.1"


def test_a_card_that_could_not_be_plugged_in_is_no_new_one(scene: Scene) -> None:
    seats = Seats()
    scene.host.fail_at(3, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(StepFailed), Change(scene.runtime, scene.host, "a", seats) as change:  # type: ignore[arg-type]
        change.add(lambda: scene.found(NET0, NET1), "net1")
    assert seats.newcomer("a", "net1") is None


def test_a_card_that_is_thrown_out_at_once_is_written_down_all_the_same(scene: Scene) -> None:
    """Who waits for it hears of that, and sees to it."""
    card = replace(NET1, backend=UserBackend(), hook=Hook())
    perform = scene.host.perform

    def performs_and_loses(step: Step) -> None:
        perform(step)
        scene.host.guests["a"].cards.discard("net1")

    scene.host.perform = performs_and_loses  # type: ignore[method-assign]
    with scene.change() as change:
        assert change.add(lambda: scene.found(NET0, card), card.id).slot == "rp.1"


def test_a_place_that_is_given_is_the_place(scene: Scene) -> None:
    """A card that is plugged in again sits where it sat."""
    with scene.change() as change:
        card = replace(NET1, backend=UserBackend(), hook=Hook())
        row = change.add(lambda: scene.found(NET0, card), card.id, {"bus": "rp.2", "addr": "0x0"})
    assert row.slot == "rp.2"
