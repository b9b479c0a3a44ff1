"""Vms, networks and labs share one set of names per runtime directory: who comes second is refused, and by whom."""

from __future__ import annotations

import pytest

from tests.world import World, machine

CARD = 'mode = "user"'


def network(name: str) -> str:
    return f'[network.{name}]\nmode = "private"\n'


def alone(name: str) -> str:
    return machine(name, card=CARD)


def plugged(vm: str, net: str) -> str:
    return network(net) + machine(vm, card=f'network = "{net}"')


def named(lab: str, text: str) -> str:
    return f'[lab]\nname = "{lab}"\n{text}'


SECOND = {
    "a vm named like a network": (plugged("one", "web"), alone("web"), "network web, used by one"),
    "a vm named like a lab": (named("web", alone("one")), alone("web"), "lab web, of "),
    "a network named like a vm": (alone("web"), plugged("one", "web"), "vm web of lab first"),
    "a network named like a lab": (named("web", alone("one")), plugged("two", "web"), "lab web, of "),
    "a lab named like a vm": (alone("web"), named("web", alone("two")), "vm web of lab first"),
    "a lab named like a network": (plugged("one", "web"), named("web", alone("two")), "network web, used by one"),
}


@pytest.mark.parametrize("what", SECOND)
def test_a_name_that_another_lab_has_up_is_refused(world: World, what: str) -> None:
    """Exit status 6 says who has it, nothing is made, and the first goes on."""
    first, second, holder = SECOND[what]
    world.succeeds("run", "-d", world.write(first, "first.toml"))
    world.keeper()
    before = sorted(world.runtime.glob("*/*"))
    said = world.fails(6, "run", "-d", world.write(second, "second.toml"))
    assert f'the name "web" is taken by {holder}' in said
    assert sorted(world.runtime.glob("*/*")) == before
    (vm,) = world.vms()
    assert vm["state"] == "running"
    world.succeeds("stop", "--force", vm["name"])
    world.succeeds("run", "-d", str(world.folder / "second.toml"))
    world.succeeds("stop", "--force", world.vms()[0]["name"])


def test_a_lab_whose_keeper_was_killed_has_its_name_still(world: World) -> None:
    from tests.world import kill

    world.succeeds("run", "-d", world.write(named("web", alone("one")), "first.toml"))
    kill(world.keeper())
    world.qemunet("gc")
    assert "lab web, of " in world.fails(6, "run", "-d", world.write(alone("web"), "second.toml"))
    world.succeeds("stop", "--force", "one")


def test_a_lab_named_after_its_only_vm_runs(world: World) -> None:
    """`[vm.web]` in web.toml is what people write."""
    world.succeeds("run", "-d", world.write(alone("web"), "web.toml"))
    world.succeeds("stop", "--force", "web")


def test_two_files_do_not_share_a_lab_by_accident(world: World) -> None:
    """The lab's name is by default the file's, and there are many lab.toml in this world."""
    for folder in ("a", "b"):
        (world.folder / folder).mkdir()
    first, second = world.write(alone("one"), "a/lab.toml"), world.write(alone("two"), "b/lab.toml")
    world.succeeds("run", "-d", first)
    for told in (world.fails(6, "run", "-d", second), world.fails(6, "run", "--no-console", second)):
        assert f'the name "lab" is taken by lab lab, of {first}' in told
        assert "--set lab.name=" in told
    assert [vm["name"] for vm in world.vms()] == ["one"]
    world.succeeds("run", "-d", second, "--set", "lab.name=other")
    world.succeeds("stop", "--force", "one", "two")


def test_one_file_by_two_ways_is_one_lab(world: World) -> None:
    """A relative path, a symbolic link: the second vm joins the first's keeper."""
    file = world.write(alone("one") + alone("two"))
    (world.folder / "link").symlink_to(world.folder)
    world.succeeds("run", "-d", file, "one")
    world.succeeds("run", "-d", "link/lab.toml", "two", cwd=world.folder)
    assert len(list(world.runtime.glob("lab/*"))) == 1
    world.succeeds("stop", "--force", "one", "two")
