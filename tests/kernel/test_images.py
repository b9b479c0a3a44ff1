"""A header that a guest may have written opens no file to it that nobody named."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.live.control import connect
from tests.images import qcow2
from tests.world import World, machine


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may look into, with a secret that only root may read."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="qemunet-test-"))
    folder.chmod(0o755)
    (folder / "secret").mkdir(mode=0o700)
    (folder / "secret" / "disk.img").write_bytes(b"SECRET".ljust(1 << 16, b"!"))
    (folder / "secret" / "disk.img").chmod(0o600)
    yield folder
    shutil.rmtree(folder)


def lab(disk: Path, *more: str) -> str:
    lines = "\n".join((f'file = "{disk}"', *more))
    return machine("one", card='mode = "user"') + f"[[vm.one.disk]]\n{lines}\n"


def disks(world: World) -> list[dict[str, object]]:
    """What QEMU says of its block devices."""
    with connect(str(world.runtime / "vm/one/monitor.sock")) as monitor, monitor.makefile("rw") as stream:
        monitor.settimeout(30)
        stream.readline()
        for command in ("qmp_capabilities", "query-named-block-nodes"):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            while "return" not in (reply := json.loads(stream.readline())):
                pass
    found: list[dict[str, object]] = reply["return"]
    return found


SECRET = b"{place}/secret/disk.img"
NAMES = {
    "absolute": (SECRET, b""),
    "absolute, as raw": (SECRET, b"raw"),
    "absolute, as qcow2": (SECRET, b"qcow2"),
    "as a format that nobody knows": (SECRET, b"host_device"),
    "relative": (b"secret/disk.img", b"raw"),
    "relative by way of the parent": (b"../{name}/secret/disk.img", b"raw"),
    "by protocol": (b"file:" + SECRET, b"raw"),
    "as json": (b'json:{{"driver":"raw","file":{{"driver":"file","filename":"' + SECRET + b'"}}}}', b"raw"),
    "on the network": (b"nbd://127.0.0.1:10809/secret", b"raw"),
    "on the network, the old way": (b"nbd:127.0.0.1:10809", b"raw"),
    "a whole directory": (b"fat:rw:{place}/secret", b"raw"),
    "a device": (b"host_device:/dev/sda", b"raw"),
    "a descriptor": (b"/proc/self/fd/3", b"raw"),
    "a descriptor of a set": (b"/dev/fdset/1", b"raw"),
    "what no path can be": (b"/etc/pass\0wd", b"raw"),
    "what cannot be printed": (b"\x1b[2J\xff\n/etc/shadow", b"raw"),
    "a file of the kernel": (b"/proc/kcore", b"raw"),
    "nothing that is there": (b"/no/such/file", b"raw"),
    "itself": (b"{place}/attack.qcow2", b"qcow2"),
}


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("deep", [False, True])
def test_a_header_that_names_a_secret_stops_the_start(world: World, place: Path, how: str, deep: bool) -> None:
    """With one line that says what to write if it is meant; also two images deep, under `plan` and `check` as well."""
    name, kind = NAMES[how]
    for pattern, text in ((b"{place}", str(place)), (b"{name}", place.name)):
        name = name.replace(pattern, text.encode())
    name = name.replace(b"{{", b"{").replace(b"}}", b"}")
    image = qcow2(place / "attack.qcow2", name, kind)
    if deep:
        image = qcow2(place / "above.qcow2", b"attack.qcow2", b"qcow2")
    file = world.write(lab(image))
    said = world.fails(2, "run", "-d", file)
    assert len(said.splitlines()) <= 2, said
    assert said.startswith(f"error: {file}: vm.one.disk[0].backing: ")
    assert "attack.qcow2" in said
    assert "\x1b" not in said
    if "disk.img" in said:
        chain = [f'"{place}/attack.qcow2"'] * deep + [f'"{place}/secret/disk.img"']
        allowed = f"[{', '.join(chain)}]" if deep else chain[0]
        known = (
            f"to allow it: backing = {allowed}\n",
            "to name another: qemu-img rebase ",
            "formats are qcow2 and raw",
        )
        assert any(f"hint: {hint}" in said for hint in known), said
    assert not world.left()


@pytest.mark.parametrize("format_", ["", 'format = "qcow2"'])
def test_a_header_that_names_a_data_file_stops_the_start(world: World, place: Path, format_: str) -> None:
    """QEMU would open it by itself, for writing."""
    for name in (b"secret/disk.img", b"open.raw"):
        (place / "open.raw").write_bytes(bytes(1 << 20))
        image = qcow2(place / "attack.qcow2", data_file=name)
        said = world.fails(2, "run", "-d", world.write(lab(image, *filter(None, [format_]))))
        assert "has its data in another file" in said
        assert "qemu-img convert" in said
    below = qcow2(place / "above.qcow2", b"attack.qcow2", b"qcow2")
    assert "has its data in another file" in world.fails(2, "run", "-d", world.write(lab(below)))


def test_a_raw_disk_stays_raw_whatever_is_written_into_it(world: World, place: Path) -> None:
    """Also one that the file does not call raw, but whose name does; and above it a throw-away overlay of its size."""
    disk = qcow2(place / "disk.qcow2", str(place / "secret/disk.img").encode(), b"raw", size=1 << 40)
    disk = disk.rename(place / "disk.img")
    for more in (("snapshot = true",), (), ('format = "raw"',)):
        world.succeeds("run", "-d", world.write(lab(disk, *more)))
        nodes = {str(node["node-name"]): node for node in disks(world)}
        image = nodes["disk.0"]["image"]
        assert isinstance(image, dict)
        assert image["virtual-size"] == disk.stat().st_size
        assert not any("secret" in str(node) for node in nodes.values())
        world.succeeds("stop", "--force", "one")


def test_what_is_named_or_open_to_all_is_followed(world: World, place: Path) -> None:
    """A base that only root may read if the lab file names it; one that everybody may read by itself."""
    base = qcow2(place / "secret" / "base.qcow2")
    base.chmod(0o600)
    middle = qcow2(place / "secret" / "middle.qcow2", b"base.qcow2", b"qcow2")
    top = qcow2(place / "top.qcow2", str(middle).encode(), b"qcow2")
    named = f'backing = ["{middle}", "{base}"]'
    public = qcow2(place / "public.qcow2")
    over = qcow2(place / "over.qcow2", b"public.qcow2", b"qcow2")
    for text, depth in ((lab(top, named), 2), (lab(over), 1), (lab(over, f'backing = "{public}"'), 1)):
        world.succeeds("run", "-d", world.write(text))
        (node,) = (node for node in disks(world) if node["node-name"] == "disk.0")
        assert node["backing_file_depth"] == depth
        world.succeeds("stop", "--force", "one")
    assert "backing" in world.fails(2, "run", "-d", world.write(lab(top, f'backing = "{base}"')))
    assert "backing" in world.fails(2, "run", "-d", world.write(lab(top, f'backing = "{middle}"')))


def test_behind_sudo_it_is_the_callers_right_that_counts(world: World, place: Path) -> None:
    """What he may read himself is followed, what he may not is not."""
    his = place / "his.raw"
    his.write_bytes(bytes(1 << 16))
    his.chmod(0o600)
    os.chown(his, 1234, 1234)
    image = qcow2(place / "top.qcow2", b"his.raw", b"raw")
    file = world.write(lab(image))
    world.fails(2, "run", "-d", file)
    world.fails(2, "run", "-d", file, env={**world.environment, "SUDO_UID": "1235", "SUDO_GID": "1235"})
    world.succeeds("run", "-d", file, env={**world.environment, "SUDO_UID": "1234", "SUDO_GID": "1234"})
    world.succeeds("stop", "--force", "one")


def test_an_image_is_opened_where_it_is(world: World, place: Path) -> None:
    """QEMU holds the very file, and there is no copy of it in memory."""
    disk = place / "secret" / "disk.img"
    world.succeeds("run", "-d", world.write(lab(disk)))
    fds = Path(f"/proc/{world.pid('one')}/fd")
    found = [os.stat(entry) for entry in fds.iterdir() if str(entry.readlink()) == str(disk)]
    assert found
    assert {one.st_ino for one in found} == {disk.stat().st_ino}
    assert not [entry for entry in fds.iterdir() if "memfd" in str(entry.readlink())]
    second = World(world.folder, {"QEMUNET_RUNTIME_DIR": str(world.runtime.with_name("other"))})
    done = second.qemunet("run", "-d", world.write(lab(disk)))
    assert (done.returncode, f"{disk} is in use by vm one of {world.runtime}" in done.stderr) == (6, True)
    world.succeeds("stop", "--force", "one")


# ---------------------------------------------------------------- one writer


def with_disk(vm: str, disk: Path, *more: str) -> str:
    lines = "\n".join((f'file = "{disk}"', *more))
    return machine(vm, card='mode = "user"') + f"[[vm.{vm}.disk]]\n{lines}\n"


@pytest.mark.parametrize("more", [(), ("readonly = true",), ("snapshot = true",)])
def test_an_image_that_a_guest_writes_is_nobody_elses(world: World, place: Path, more: tuple[str, ...]) -> None:
    """Exit status 6 names the image and the guest that has it; by another of its names, too."""
    disk, other = place / "secret" / "disk.img", place / "other.img"
    os.link(disk, other)
    world.succeeds("run", "-d", world.write(with_disk("one", disk), "first.toml"))
    said = world.fails(6, "run", "-d", world.write(with_disk("two", other, *more), "second.toml"))
    assert f"{other} is in use by vm one of {world.runtime} (pid {world.pid('one')})" in said
    world.succeeds("stop", "--force", "one")
    world.succeeds("run", "-d", str(world.folder / "second.toml"))
    world.succeeds("stop", "--force", "two")


@pytest.mark.parametrize("more", ["readonly = true", "snapshot = true"])
def test_an_image_that_nobody_writes_may_be_shared(world: World, place: Path, more: str) -> None:
    """Between labs and within one; but whoever would write to it is refused."""
    disk = place / "secret" / "disk.img"
    text = with_disk("one", disk, more) + with_disk("two", disk, more)
    world.succeeds("run", "-d", world.write(text, "first.toml"))
    world.succeeds("run", "-d", world.write(with_disk("three", disk, more), "second.toml"))
    assert f"{disk} is in use by vm " in world.fails(6, "run", "-d", world.write(with_disk("four", disk), "third.toml"))
    world.succeeds("stop", "--force", "one", "two", "three")


def test_two_names_of_one_image_in_one_lab_are_one_image(world: World, place: Path) -> None:
    """Neither QEMU runs when the files are opened; the one that comes second says it, and all is taken back."""
    disk, other = place / "secret" / "disk.img", place / "other.img"
    os.link(disk, other)
    said = world.fails(6, "run", "-d", world.write(with_disk("one", disk) + with_disk("two", other)))
    assert "disk[0]: its image is in use by another process" in said
    assert not world.left()
