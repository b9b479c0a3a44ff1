"""What qemunet promises, attacked: QEMU is not root, nothing foreign is touched, whoever dies leaves nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from qemunet.model import names
from tests.dump import links
from tests.kernel.conftest import ip, quiet
from tests.world import NETWORK, World, kill, machine, status, until

TWO = NETWORK + machine("one") + machine("two")
ONE = NETWORK + machine("one")
USER_MODE = machine("one", card='mode = "user"')


# ---------------------------------------------------------------- QEMU is not root


def as_user(uid: int, *argv: str) -> int:
    """Run a program as somebody without a right; return its exit status."""
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *argv]
    return subprocess.run(words, capture_output=True).returncode


def test_each_qemu_of_root_is_a_user_of_its_own_without_any_right(world: World) -> None:
    """By what the kernel says: ids, groups, capabilities, no way to get any, and the seccomp filter."""
    world.succeeds("run", "-d", world.write(TWO))
    seen = {vm: status(world.pid(vm)) for vm in ("one", "two")}
    for found in seen.values():
        assert len({*found["Uid"], *found["Gid"]}) == 1
        assert int(found["Uid"][0]) > 1 << 16
        assert found["Groups"] == []
        assert all(int(found[key][0], 16) == 0 for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"))
        assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
    assert seen["one"]["Uid"] != seen["two"]["Uid"]
    uid, other, own = int(seen["one"]["Uid"][0]), world.pid("two"), world.pid("one")
    assert as_user(uid, "kill", "-0", str(own)) == 0
    assert as_user(uid, "kill", "-0", str(other)) != 0
    for secret in ("vm/two/console.log", "vm/two/monitor.sock", "vm/one/qmp.sock", "lab/lab/keeper.sock"):
        assert as_user(uid, "test", "-e", str(world.runtime / secret)) != 0, f"{secret} can be reached"
    world.succeeds("stop", "--force", "one", "two")


def test_guests_of_two_runtime_directories_are_different_users_too(world: World) -> None:
    """Each directory hands out its numbers without knowing of the other."""
    world.succeeds("run", "-d", world.write(USER_MODE))
    other = World(world.folder, {"QEMUNET_RUNTIME_DIR": str(world.runtime.with_name("other"))})
    other.succeeds("run", "-d", world.write(USER_MODE))
    pid = int((world.runtime.with_name("other") / "vm/one/pid").read_text())
    try:
        assert status(pid)["Uid"] != status(world.pid("one"))["Uid"]
    finally:
        for one in (world, other):
            one.succeeds("stop", "--force", "one")


def test_a_named_user_is_who_qemu_is(world: World) -> None:
    world.succeeds("run", "-d", world.write(machine("one", 'user = "nobody"', card='mode = "user"')))
    found = status(world.pid("one"))
    assert (found["Uid"], found["Groups"]) == (["65534"] * 4, [])
    assert (int(found["CapEff"][0], 16), found["NoNewPrivs"], found["Seccomp"]) == (0, ["1"], ["2"])
    world.succeeds("stop", "--force", "one")


def test_a_qemu_holds_nothing_of_another_guest_and_no_file_of_ours(world: World) -> None:
    """Its descriptors are its log, its lock, its tap and sockets; not a journal, not a keeper's anything."""
    world.succeeds("run", "-d", world.write(TWO))
    for vm in ("one", "two"):
        folder = Path(f"/proc/{world.pid(vm)}/fd")
        targets = {str(entry.readlink()) for entry in folder.iterdir()}
        files = {target for target in targets if target.startswith("/") and not target.startswith("/dev/")}
        assert files == {str(world.runtime / "vm" / vm / name) for name in ("qemu.log", "lock")}
    world.succeeds("stop", "--force", "one", "two")


# ---------------------------------------------------------------- nothing foreign is touched

OUR_GROUP = "{group}"
FOREIGN = {
    "a bridge of our name": ("link add qn-lab type bridge",),
    "a dummy-like veth of our name": ("link add qn-lab type veth peer name peer0",),
    "our name as an alternative one": ("link add other type bridge", "link property add dev other altname qn-lab"),
    "our bridge's mark as an alternative name": (
        "link add other type bridge",
        "link property add dev other altname qemunet.net-lab.bridge",
    ),
    "a bridge of our name and mark": (
        "link add qn-lab type bridge",
        "link property add dev qn-lab altname qemunet.net-lab.bridge",
    ),
    "a bridge of our name and group": (f"link add qn-lab group {OUR_GROUP} type bridge",),
    "a tap of our card's name that nobody holds": ("tuntap add dev qn-one-net0 mode tap",),
    "a multi-queue tap of our card's name": ("tuntap add dev qn-one-net0 mode tap multi_queue vnet_hdr",),
    "a tun of our card's name": ("tuntap add dev qn-one-net0 mode tun",),
    "a macvtap of our card's name": (
        "link add up0 type veth peer name far0",
        "link add link up0 name qn-one-net0 type macvtap mode bridge",
    ),
    "our card's mark as an alternative name": (
        "link add other type bridge",
        "link property add dev other altname qemunet.vm-one.net0",
    ),
}


def set_up(world: World, lines: tuple[str, ...]) -> None:
    group = str(names.group(str(world.runtime), "net/lab"))
    for line in lines:
        ip(*line.replace(OUR_GROUP, group).split())
    world.mark()


@pytest.mark.parametrize("what", FOREIGN)
def test_what_has_our_name_already_survives_and_is_named(world: World, what: str) -> None:
    """Exit status 6 before anything was done, and gc does not take it for ours either."""
    set_up(world, FOREIGN[what])
    said = world.fails(6, "run", "-d", world.write(ONE))
    known = ("qn-one-net0", "qn-lab", "qemunet.net-lab.bridge", "qemunet.vm-one.net0")
    assert any(f"{name} is a" in said for name in known), said
    assert not world.left()
    world.succeeds("gc")


def test_another_runtime_directory_that_has_our_name_is_named(world: World) -> None:
    """Two worlds of one user: neither takes the other's for its own."""
    other = World(world.folder, {"QEMUNET_RUNTIME_DIR": str(world.runtime.with_name("other"))})
    other.succeeds("run", "-d", world.write(ONE))
    seen = links()
    said = world.fails(6, "run", "-d", world.write(ONE))
    assert "qn-lab is a bridge already, of qemunet.net-lab.bridge" in said
    assert "another runtime directory" in said
    world.succeeds("gc")
    assert links() == seen
    assert [vm["state"] for vm in other.vms()] == ["running"]
    other.succeeds("stop", "--force", "one")


def test_a_stranger_in_our_link_group_survives_everything(world: World) -> None:
    """Start, stop, and kill -9 with gc; deletion by group must not take it along."""
    groups = {names.group(str(world.runtime), scope) for scope in ("net/lab", "vm/one", "vm/two")}
    for number, group in enumerate(groups):
        ip("link", "add", f"stranger{number}", "group", str(group), "type", "bridge")
    world.mark()
    file = world.write(TWO + '[[vm.two.nic]]\nmode = "tap"\naddress = "10.9.0.1/30"\n')
    world.succeeds("run", "-d", file)
    world.succeeds("stop", "--force", "one", "two")
    assert not world.left()
    world.succeeds("run", "-d", file)
    kill(world.keeper(), world.pid("one"), world.pid("two"))
    world.succeeds("gc")


def holds(pid: int, tap: str) -> bool:
    with contextlib.suppress(OSError):
        return any(f"iff:\t{tap}\n" in entry.read_text() for entry in Path(f"/proc/{pid}/fdinfo").iterdir())
    return False


def test_a_persistent_tap_that_somebody_holds_is_left_to_him(world: World) -> None:
    """Its holder goes on, and the tap is as before."""
    ip("tuntap", "add", "dev", "qn-one-net0", "mode", "tap", "vnet_hdr")
    quiet("qn-one-net0")
    argv = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16M"]
    argv += ["-netdev", "tap,id=n,ifname=qn-one-net0,script=no,downscript=no"]
    holder = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        until(lambda: holds(holder.pid, "qn-one-net0"), "it holds the tap")
        world.mark()
        assert "qn-one-net0 is a tap already" in world.fails(6, "run", "-d", world.write(ONE))
        world.succeeds("gc")
        assert not world.left()
        assert holder.poll() is None
        assert holds(holder.pid, "qn-one-net0")
    finally:
        holder.kill()
        holder.wait()
    ip("link", "del", "qn-one-net0")
    world.mark()


def test_a_process_that_got_the_number_of_a_dead_guest_is_not_killed(world: World) -> None:
    world.succeeds("run", "-d", world.write(ONE))
    kill(world.keeper(), world.pid("one"))
    with subprocess.Popen(["sleep", "60"]) as other:
        (world.runtime / "vm/one/pid").write_text(f"{other.pid}\n")
        record = world.runtime / "vm/one/record.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "pid": other.pid}))
        world.succeeds("stop", "--force", "one")
        assert other.poll() is None
        other.kill()
