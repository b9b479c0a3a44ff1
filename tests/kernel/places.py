"""A world with a /run of its own, and what is seen of the namespaces that labs make in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import namespace
from tests.world import World, fresh_world


@contextlib.contextmanager
def world_of_spaces(folder: Path) -> Iterator[World]:
    """A world with a /run of its own; afterwards no namespace is there that was not before."""
    if why := namespace.lack():
        pytest.skip(why)
    (folder / "host").mkdir()
    with namespace.own_run(), fresh_world(folder) as world:
        world.mark()
        mounts, run = mounted(), os.listdir("/run")
        yield world
        found = world.left()
        assert not found, found
        assert (mounted(), os.listdir("/run")) == (mounts, run)


def mounted() -> list[str]:
    return sorted(line.split()[4] for line in Path("/proc/thread-self/mountinfo").read_text().splitlines())


def inode(world: World, name: str) -> int:
    return (world.runtime / "netns" / name / "net").stat().st_ino


def users(number: int) -> list[str]:
    """Who keeps a network namespace: processes in it, open descriptors, and mounts anybody has."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for link in (*process.glob("task/*/ns/net"), *process.glob("fd/*")):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if f"net:[{number}]" in target:
                found.append(f"{link} {process.joinpath('comm').read_text()}")
    return found


def inside(world: World, name: str, *command: str) -> str:
    return world.succeeds("exec", name, "--", *command)


def pings(world: World, name: str, address: str) -> bool:
    return world.qemunet("exec", name, "--", "busybox", "ping", "-c", "1", "-W", "2", address).returncode == 0
