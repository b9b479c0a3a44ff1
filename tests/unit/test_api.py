"""The Python API: what it asks of a keeper, what it makes of the answers, and that it holds guests to the very end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import qemunet
from qemunet import api, sync
from qemunet.config import keys
from qemunet.errors import Failed, NotFound, NotTakenBack, QemunetError, Taken, TimedOut, UsageError
from qemunet.live import begin, control
from qemunet.live.control import Message
from qemunet.live.server import Peer, Server, Takeover
from qemunet.model.nic import LinkState
from qemunet.shapes import NicKeys, keys_of, link_word

ROW: Message = {"id": "net0", "mode": "tap", "model": "e1000", "mac": "52:54:00:00:00:01", "link": "up", "ips": []}


class Keeper:
    """A process that starts guests and becomes their keeper, played in this one. `script` answers its verbs."""

    def __init__(self, runtime: Path, vms: tuple[str, ...] = ("one", "two")) -> None:
        self.runtime = runtime
        self.vms = list(vms)
        self.orders: list[Message] = []
        self.asked: list[Message] = []
        self.script: dict[str, Callable[[Message], Message]] = {}
        self.refusal: Message | None = None
        self.interrupted = False
        self.hangs = False
        self.held_again = asyncio.Event()
        self.failures: list[str] = []
        self.server = Server(self)
        self.tether: Peer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        (self.runtime / "lab/shop").mkdir(parents=True)
        (self.runtime / "made-by-qemunet").touch()
        await self.server.open(control.listen(str(self.runtime / "lab/shop/keeper.sock")))

    async def close(self) -> None:
        await self.server.close()
        await asyncio.gather(*self._tasks)

    def spawn(self, runtime: str) -> tuple[int, socket.socket]:
        """In place of `begin._spawn`."""
        assert runtime == str(self.runtime)
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        self._tasks.append(asyncio.get_running_loop().create_task(self._start(theirs)))
        return os.posix_spawn("/bin/true", ["true"], {}), ours

    async def _start(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.orders.append(json.loads(await loop.sock_recv(sock, 65536)))
        with sock:
            await loop.sock_sendall(sock, b'{"tell": "note: no KVM here"}\n')
            if self.refusal is not None:
                await loop.sock_sendall(sock, json.dumps(self.refusal).encode() + b"\n")
                return
            if self.hangs:
                self.interrupted = await loop.sock_recv(sock, 16) == b""
                return
            await loop.sock_sendall(sock, json.dumps({"ready": self.vms, "tethered": True}).encode() + b"\n")
            assert await loop.sock_recv(sock, 16) == b"go\n"
            await loop.sock_sendall(sock, b'{"final": true, "lab": "shop"}\n')
            self.tether = await self.server.add(sock.dup())
            self.tether.tell({"event": "watching", "vms": self.vms})

    async def answer(self, peer: Peer, request: Message) -> Message | Takeover:
        self.asked.append(request)
        do = str(request["do"])
        if do in self.script:
            return self.script[do](request)
        match do:
            case "ping":
                return {"vms": self.vms}
            case "status":
                rows = {"state": "running", "since": 1.5, "adopted": False, "more": "of the future"}
                return {"vms": [{"vm": vm, "pid": 40 + number, **rows} for number, vm in enumerate(self.vms)]}
            case "nics":
                return {"nics": [ROW], "foreign": [], "known": {ROW["mac"]: {"guest_ifname": "eth0", "ip": []}}}
            case "stop":
                self.ends(str(request["vm"]))
                return {"how": "quit" if request["force"] else "powerdown"}
            case "tether":
                self.tether = peer
                self.held_again.set()
                peer.tell({"event": "watching", "vms": request["vms"]})
                return {"vms": request["vms"]}
        raise UsageError(f"unknown verb {do}")

    def lost(self, peer: Peer) -> None:
        pass

    def ends(self, vm: str, reason: str = "quit") -> None:
        """Let a guest end."""
        self.vms.remove(vm)
        assert self.tether is not None
        self.tether.tell({"event": "ended", "vm": vm, "status": 0, "reason": reason, "text": f"{vm} has ended"})
        if not self.vms:
            self.tether.tell({"event": "over", "failures": self.failures})
            self.server.close_door()
            os.unlink(self.runtime / "lab/shop/keeper.sock")
            self._tasks.append(asyncio.get_running_loop().create_task(self.tether.hang_up()))

    def verbs(self, *but: str) -> list[str]:
        return [str(request["do"]) for request in self.asked if request["do"] not in but]


Body = Callable[[Keeper], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], Keeper]:
    """Run a story in which the lab is started and kept by a `Keeper`; return that."""
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path))

    async def story(body: Body) -> Keeper:
        keeper = Keeper(tmp_path)
        await keeper.open()
        monkeypatch.setattr(begin, "_spawn", keeper.spawn)
        try:
            async with asyncio.timeout(20):
                await body(keeper)
        finally:
            await keeper.close()
        return keeper

    return lambda body: asyncio.run(story(body))


# ---------------------------------------------------------------- begin and end


def test_a_lab_is_started_for_this_process_and_ended_with_its_block(play: Callable[[Body], Keeper]) -> None:
    """The order says so; guests that still run at the end are ended at once, and then it is waited for."""

    async def body(keeper: Keeper) -> None:
        async with qemunet.open("a/lab.toml", "one", set=["vm.one.cpus=2"]) as lab:
            assert (lab.name, list(lab.vm)) == ("shop", ["one", "two"])
            assert [vm.pid for vm in lab.vm.values()] == [40, 41]
            assert lab.vm["two"].nics["net0"].guest_ifname == "eth0"
        assert [vm.state for vm in lab.vm.values()] == ["ended", "ended"]

    keeper = play(body)
    (order,) = keeper.orders
    assert order["file"] == os.path.abspath("a/lab.toml")
    assert (order["vms"], order["overrides"], order["hold"]) == (["one"], ["vm.one.cpus=2"], True)
    stops = [(request["vm"], request["force"]) for request in keeper.asked if request["do"] == "stop"]
    assert sorted(stops) == [("one", True), ("two", True)]


def test_what_a_start_says_to_people_goes_to_the_log(
    play: Callable[[Body], Keeper], caplog: pytest.LogCaptureFixture
) -> None:
    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml"):
            pass

    caplog.set_level(logging.INFO, "qemunet")
    play(body)
    assert caplog.messages == ["note: no KVM here"]


def test_another_runtime_directory_is_named_without_the_environment(tmp_path: Path) -> None:
    """And what cannot be one is refused before anything is done."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").touch()

    async def body() -> None:
        with pytest.raises(QemunetError, match="cannot be the runtime directory") as caught:
            async with api.open("lab.toml", runtime=tmp_path / "letters"):
                pass
        assert caught.value.where == str(tmp_path / "letters")

    asyncio.run(body())


def test_a_start_that_fails_raises_what_went_wrong(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.refusal = Taken("one runs already", hint="stop it").as_json()
        with pytest.raises(Taken, match="one runs already") as caught:
            async with api.open("lab.toml"):
                pass
        assert caught.value.hint == "stop it"

    assert play(body).asked == []


def test_a_start_that_is_cancelled_is_taken_back_before_that_is_told(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.hangs = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), api.open("lab.toml"):
                pass
        assert keeper.interrupted

    play(body)


def test_an_error_in_the_block_comes_through_and_the_guests_end(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        with pytest.raises(ZeroDivisionError):
            async with api.open("lab.toml"):
                raise ZeroDivisionError
        assert keeper.vms == []

    play(body)


def test_cancelled_twice_the_guests_still_end(play: Callable[[Body], Keeper]) -> None:
    """Also where the block was left already."""

    async def body(keeper: Keeper) -> None:
        entered = asyncio.Event()

        async def block() -> None:
            async with api.open("lab.toml"):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        await entered.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert keeper.vms == []

    play(body)


def test_what_was_not_taken_back_is_raised_at_the_end(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.failures = ["qn-one is busy"]
        with pytest.raises(NotTakenBack, match="qn-one is busy"):
            async with api.open("lab.toml"):
                pass

    play(body)


def test_a_lab_is_opened_once(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        opening = api.open("lab.toml")
        async with opening:
            pass
        with pytest.raises(UsageError, match="opened once"):
            async with opening:
                pass

    play(body)


def test_a_lost_keeper_is_followed_by_one_that_holds_the_guests_too(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml"):
            first = keeper.tether
            assert first is not None
            await first.hang_up()
            await keeper.held_again.wait()
            assert [request["vms"] for request in keeper.asked if request["do"] == "tether"] == [["one", "two"]]
        assert keeper.vms == []

    play(body)


def is_null_in_a_fork(fd: int) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if os.path.samestat(os.fstat(fd), os.stat(os.devnull)) else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_the_child_of_a_fork_does_not_hold_the_guests(play: Callable[[Body], Keeper]) -> None:
    """They end with the process that opened the lab, not with a worker that it has forked."""

    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml") as lab:
            sock = lab._hold._held.wire.writer.get_extra_info("socket")
            assert is_null_in_a_fork(sock.fileno())
            assert await lab.status()

    play(body)


# ---------------------------------------------------------------- guests


def test_a_guest_that_ends_by_itself_says_how(play: Callable[[Body], Keeper]) -> None:
    """And whatever is asked of it afterwards is NotFound, without asking anybody."""

    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml") as lab:
            keeper.ends("one", "guest-shutdown")
            ending = await lab.vm["one"].wait(5)
            assert (ending.reason, ending.status, lab.vm["one"].state) == ("guest-shutdown", 0, "ended")
            before = len(keeper.asked)
            with pytest.raises(NotFound, match="does not run any more: one has ended"):
                await lab.vm["one"].qmp("query-status")
            assert len(keeper.asked) == before
            assert list(await lab.status()) == ["two"]
            with pytest.raises(TimedOut, match="two has not ended within"):
                await lab.vm["two"].wait(0.01)

    play(body)


def test_stopping_all_says_what_it_took_for_each(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml") as lab:
            assert await lab.stop(timeout=3) == {"one": api.How.POWERDOWN, "two": api.How.POWERDOWN}

    keeper = play(body)
    assert [request["timeout"] for request in keeper.asked if request["do"] == "stop"] == [3, 3]


def test_a_vm_or_card_of_another_name_is_not_found(play: Callable[[Body], Keeper]) -> None:
    """And the message says which there are."""

    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml") as lab:
            with pytest.raises(NotFound, match="there: one, two"):
                lab.vm["three"]
            with pytest.raises(NotFound, match="there: net0"):
                lab.vm["one"].nics["net7"]
            assert "three" not in lab.vm

    play(body)


def test_qmp_passes_its_arguments_on_as_they_are(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.script["qmp"] = lambda request: {"return": request["arguments"]}
        async with api.open("lab.toml") as lab:
            assert await lab.vm["one"].qmp("device_del", id="net0", **{"a-b": 1}) == {"id": "net0", "a-b": 1}

    play(body)


def test_an_error_of_the_keeper_is_raised_as_it_was(play: Callable[[Body], Keeper]) -> None:
    def refuse(request: Message) -> Message:
        raise Failed("no free slot", hint="hotplug-slots")

    async def body(keeper: Keeper) -> None:
        keeper.script["nic-add"] = refuse
        async with api.open("lab.toml") as lab:
            with pytest.raises(Failed, match="no free slot"):
                await lab.vm["one"].add_nic(network="lab")

    play(body)


# ---------------------------------------------------------------- cards


def test_a_card_is_asked_for_by_the_keys_of_a_lab_file(play: Callable[[Body], Keeper]) -> None:
    """With hyphens, and paths from where this process is; what comes back is in the snapshot."""

    async def body(keeper: Keeper) -> None:
        row = {**ROW, "id": "net1"}
        keeper.script["nic-add"] = lambda request: {"nic": row, "presence": "paused", "guest_ifname": None}
        async with api.open("lab.toml") as lab:
            vm = lab.vm["one"]
            nic = await vm.add_nic(network="lab", boot_index=3, ip=("10.0.0.1/24",), ifup=Path("up"), timeout=4)
            assert (nic.id, nic.presence) == ("net1", "paused")
            assert sorted(vm.nics) == ["net0", "net1"]

    keeper = play(body)
    (request,) = [request for request in keeper.asked if request["do"] == "nic-add"]
    wanted = {"network": "lab", "boot-index": 3, "ip": ["10.0.0.1/24"], "ifup": os.path.abspath("up")}
    assert (request["vm"], request["timeout"], request["keys"]) == ("one", 4, wanted)


def test_a_card_that_no_driver_takes_is_plugged_in_and_an_error(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.script["nic-add"] = lambda request: {"nic": {**ROW, "id": "net1"}, "presence": "unseen"}
        async with api.open("lab.toml") as lab:
            with pytest.raises(TimedOut, match="no driver of the guest has taken it within 2 s"):
                await lab.vm["one"].add_nic(mode="user", timeout=2)
            assert "net1" in lab.vm["one"].nics

    play(body)


def test_a_card_is_changed_moved_pulled_and_taken_out(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        keeper.script["nic-set"] = lambda request: {"nic": {**ROW, **request["keys"]}, "presence": "there"}  # type: ignore[dict-item]
        keeper.script["nic-del"] = lambda request: {"nic": ROW}
        async with api.open("lab.toml") as lab:
            vm = lab.vm["one"]
            nic = vm.nics["net0"]
            assert (await vm.set_link(nic, False)).link == "down"
            assert vm.nics["net0"].link == "down"
            assert (await vm.move_nic("net0", "other")).network == "other"
            assert (await vm.set_nic(nic.mac, mac="52:54:00:00:00:02")).mac == "52:54:00:00:00:02"
            await vm.remove_nic(nic, timeout=1, cut=True)
            assert dict(vm.nics) == {}

    keeper = play(body)
    sets = [(request["nic"], request["keys"]) for request in keeper.asked if request["do"] == "nic-set"]
    assert sets == [
        ("net0", {"link": "down"}),
        ("net0", {"network": "other"}),
        (ROW["mac"], {"mac": "52:54:00:00:00:02"}),
    ]
    (gone,) = [request for request in keeper.asked if request["do"] == "nic-del"]
    assert (gone["nic"], gone["timeout"], gone["cut"]) == ("net0", 1, True)


@pytest.mark.parametrize(
    ("up", "word"), [(True, "up"), (False, "down"), ("up", "up"), ("down", "down"), (LinkState.DOWN, "down")]
)
def test_a_cable_is_told_by_a_truth_or_a_word(*, up: bool | str, word: str) -> None:
    assert link_word(up) == word


@pytest.mark.parametrize("up", ["off", "", "Down", 0, 1, None, [], "updown"])
def test_a_cable_is_nothing_but_up_or_down(up: object) -> None:
    """A word of another language is true in Python, and would plug it in."""
    with pytest.raises(UsageError, match="a cable is up or down, not "):
        link_word(up)


def test_what_is_none_is_not_given() -> None:
    """Programs pass on what they were not given."""
    assert keys_of({"network": None, "boot_index": 0, "ip": (), "ifup": None}) == {"boot-index": 0, "ip": []}


def test_applying_takes_this_labs_file_and_what_overrode_it(play: Callable[[Body], Keeper]) -> None:
    async def body(keeper: Keeper) -> None:
        change = {"vm": "one", "what": "plug net1", "disruption": "none", "done": False, "more": 1}
        keeper.script["apply"] = lambda request: {"changes": [change], "vms": ["one"]}
        async with api.open("lab.toml", set="vm.one.cpus=2") as lab:
            assert await lab.apply(dry_run=True) == (api.Change("one", "plug net1", "none", False),)
            await lab.apply("other.toml", set=())

    keeper = play(body)
    asked = [request for request in keeper.asked if request["do"] == "apply"]
    assert [(request["file"], request["overrides"], request["dry"]) for request in asked] == [
        (os.path.abspath("lab.toml"), ["vm.one.cpus=2"], True),
        (os.path.abspath("other.toml"), [], False),
    ]


def test_a_card_that_could_not_be_made_what_the_file_says_is_raised_in_the_end(play: Callable[[Body], Keeper]) -> None:
    """Whatever else failed is in its notes."""

    async def body(keeper: Keeper) -> None:
        words = ("the guest has not let go of net1", "the guest has not let go of net2")
        row = {"vm": "one", "what": "unplug", "disruption": "live", "done": False}
        rows = [{**row, **TimedOut(text).as_json()} for text in words]
        keeper.script["apply"] = lambda request: {"changes": rows, "vms": ["one"]}
        async with api.open("lab.toml") as lab:
            with pytest.raises(TimedOut, match=words[0]) as caught:
                await lab.apply()
            assert caught.value.__notes__ == [words[1]]

    play(body)


def test_the_keys_are_those_of_a_lab_file() -> None:
    """A key that a lab file gets is one that programs get."""
    assert {key.replace("_", "-") for key in NicKeys.__annotations__} == set(keys.NIC.keys)


# ---------------------------------------------------------------- events and consoles


def news(**words: object) -> Message:
    return {"event": "guest", "time": 1.5, "lab": "shop", "vm": "one", **words}


def test_events_begin_with_the_block_and_end_with_the_guests(play: Callable[[Body], Keeper]) -> None:
    """What comes before the answer counts, too."""
    listeners: list[Peer] = []

    async def body(keeper: Keeper) -> None:
        answer = keeper.answer

        async def with_news(peer: Peer, request: Message) -> Message | Takeover:
            if request["do"] != "events":
                return await answer(peer, request)
            assert request["vm"] == "one"
            peer.tell(news(what="running", pid=40))
            listeners.append(peer)
            return {"vms": ["one", "two"]}

        keeper.answer = with_news  # type: ignore[method-assign]
        async with api.open("lab.toml") as lab, lab.events("one") as events:
            (peer,) = listeners
            peer.tell({"event": "qmp", "time": 2, "lab": "shop", "vm": "one", "name": "STOP", "data": {}})
            peer.tell(news(what="over", failures=[]))
            heard = [event async for event in events]
        assert [event.kind for event in heard] == ["guest", "qmp", "guest"]
        assert [event.what for event in heard] == ["running", None, "over"]
        assert heard[0].details == {"what": "running", "pid": 40}
        assert heard[1].details["name"] == "STOP"

    play(body)


@contextlib.asynccontextmanager
async def console(lab: api.Lab, keeper: Keeper) -> AsyncIterator[tuple[api.Console, socket.socket]]:
    ours: list[socket.socket] = []
    taken = asyncio.Event()
    answer = keeper.answer

    async def with_console(peer: Peer, request: Message) -> Message | Takeover:
        return Takeover(take) if request["do"] == "console" else await answer(peer, request)

    def take(sock: socket.socket) -> None:
        ours.append(sock)
        taken.set()

    keeper.answer = with_console  # type: ignore[method-assign]
    async with await lab.vm["one"].console(replay=7) as found:
        await taken.wait()
        with ours[0]:
            yield found, ours[0]


def test_a_console_is_read_up_to_a_pattern_and_typed_to(play: Callable[[Body], Keeper]) -> None:
    """A character in two pieces is one, and what follows a match is there for the next."""

    async def body(keeper: Keeper) -> None:
        async with api.open("lab.toml") as lab, console(lab, keeper) as (found, guest):
            guest.send("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n".encode()[:3])
            waiting = asyncio.create_task(found.wait_for(r"^(gr.n)\r$", 5))
            await asyncio.sleep(0.05)
            guest.send(b"\xbcn\r\nlogin: ")
            assert (await waiting)[1] == "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"
            assert (await found.wait_for("login: ", 5))[0] == "login: "
            await found.write(b"root\r")
            assert await asyncio.get_running_loop().sock_recv(guest, 100) == b"root\r"
            with pytest.raises(TimedOut, match="has not come within"):
                await found.wait_for(r"\$ ", 0.01)
            guest.close()
            with pytest.raises(NotFound, match="the console has ended"):
                await found.wait_for("more", 5)

    play(body)


# ---------------------------------------------------------------- shape


def test_the_package_itself_costs_nothing_to_import() -> None:
    """The commands import it first, and most of them need no API and no event loop."""
    program = "import sys; before = set(sys.modules); import qemunet; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["qemunet"]


def test_the_package_gives_what_the_api_is() -> None:
    assert qemunet.open is api.open
    assert (qemunet.Lab, qemunet.Vm, qemunet.Nic) == (api.Lab, api.Vm, api.Nic)
    assert qemunet.sync is sync
    assert "open" in dir(qemunet)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = qemunet.opne  # type: ignore[attr-defined]


def public(thing: object) -> dict[str, Any]:
    """The parameters of a class's methods."""
    names = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__anext__": "__next__", "__aiter__": "__iter__"}
    members = inspect.getmembers(thing, inspect.isfunction)
    found = {names.get(name, name): inspect.signature(one) for name, one in members}
    return {name: one for name, one in found.items() if not name.startswith("_") or name in names.values()}


@pytest.mark.parametrize("name", ["Lab", "Vm", "Console", "Events", "Opening"])
def test_the_blocking_api_is_the_same_as_the_other(name: str) -> None:
    """Every method is there and takes the same; a class of the one is the class of the same name of the other."""
    mine, theirs = public(getattr(sync, name)), public(getattr(api, name))
    assert mine.keys() == theirs.keys()
    for method in mine.keys() - {"__exit__"}:
        assert list(mine[method].parameters.values()) == list(theirs[method].parameters.values()), method


def test_the_blocking_open_takes_the_same() -> None:
    mine, theirs = inspect.signature(sync.open), inspect.signature(api.open)
    assert list(mine.parameters.values()) == list(theirs.parameters.values())
    assert set(sync.__all__) == set(api.__all__)


@pytest.mark.parametrize("name", sorted({*api.__all__, *sync.__all__}))
def test_everything_public_is_documented(name: str) -> None:
    """The reference is made from it."""
    for module in (api, sync):
        thing = getattr(module, name)
        assert thing.__doc__, f"{module.__name__}.{name}"
        for method in public(thing) if inspect.isclass(thing) else ():
            if not method.startswith("_"):
                assert getattr(thing, method).__doc__, f"{module.__name__}.{name}.{method}"


def test_an_interrupt_before_the_loop_has_heard_of_the_work_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing was begun, and nobody will say that it is done."""
    loop = sync._Loop()

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    async def work() -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(work)
    loop.close()
