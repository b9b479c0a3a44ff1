"""A lab comes up in its order, is completed when half of it runs, and is taken back when a part of it fails."""

from __future__ import annotations

import signal

from tests.world import NETWORK, World, machine, until

NEVER = 'ready = "console=never said"'


def lab(*tables: str) -> str:
    return '[lab]\nname = "home"\n' + NETWORK + "".join(tables)


def running(world: World) -> list[str]:
    return sorted(one["name"] for one in world.vms())


def test_what_does_not_run_yet_is_started_and_what_runs_is_left_alone(world: World) -> None:
    """Twice is as good as once."""
    file = world.write(lab(machine("one"), machine("two", 'depends = ["one"]'), machine("three")))
    world.succeeds("up", file, "two")
    assert running(world) == ["one", "two"]
    pids = {name: world.pid(name) for name in ("one", "two")}
    world.succeeds("up", file)
    world.succeeds("up", file, "--wait", "ready")
    assert running(world) == ["one", "three", "two"]
    assert {name: world.pid(name) for name in pids} == pids
    world.succeeds("stop", "--force", "one")
    world.succeeds("up", file)
    assert running(world) == ["one", "three", "two"]
    assert world.pid("two") == pids["two"]
    world.succeeds("down", "--force", "home")


def test_one_that_is_never_ready_takes_down_what_was_begun_and_nothing_else(world: World) -> None:
    file = world.write(lab(machine("here"), machine("router", NEVER), machine("web", 'depends = ["router"]')))
    world.succeeds("run", "-d", file, "here")
    said = world.fails(5, "up", file, "--timeout", "500ms")
    assert "error: vm.router: it is not ready after 0.5 s; " in said
    assert running(world) == ["here"]
    world.succeeds("down", "--force", "home")


def test_what_can_be_up_stays_up_for_who_keeps_going(world: World) -> None:
    broken = machine("router", 'qemu-args = ["-no-such-option"]')
    file = world.write(lab(broken, machine("web", 'depends = ["router"]'), machine("other")))
    said = world.fails(1, "up", file, "--keep-going")
    assert "vm.web: it was left out, as router failed" in said
    assert running(world) == ["other"]
    world.fails(1, "up", file)
    assert running(world) == ["other"]
    world.succeeds("down", "--force", "home")


def test_an_interrupt_takes_back_what_was_begun(world: World) -> None:
    file = world.write(lab(machine("router", NEVER), machine("web", 'depends = ["router"]')))
    process = world.start("up", file)
    until(lambda: (world.runtime / "vm/router/pid").exists() and running(world) == ["router"], "the first one runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted by SIGINT" in said
    assert running(world) == []


def test_a_port_is_waited_for_at_the_addresses_that_are_known(world: World) -> None:
    file = world.write(lab(machine("one", card='network = "lab"\nip = ["192.0.2.7/24"]')))
    said = world.fails(5, "up", file, "--wait", "tcp=one:80", "--timeout", "100ms")
    assert "port 80 of 192.0.2.7: ENETUNREACH" in said
    for wrong in ("tcp=two:80", "tcp=one:http", "dhpc", "console=("):
        assert f"--wait {wrong}: " in world.fails(2, "up", file, "--wait", wrong)
