"""Places in which nothing should go wrong, or only with one clear word."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.world import NETWORK, QEMUNET, World, machine, until

ONE = NETWORK + machine("one")
MOUNTS = ["unshare", "--mount", "--propagation", "private"]


def lack_of_mounts() -> str:
    done = subprocess.run([*MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no file system can be mounted: {done.stderr.strip()}"


# ---------------------------------------------------------------- the runtime directory


def elsewhere(world: World, path: Path) -> World:
    return World(world.folder, {"QEMUNET_RUNTIME_DIR": str(path)})


def test_a_directory_of_somebodys_own_is_not_taken_for_ours(world: World) -> None:
    """Its folders may have our names: nothing in them is touched, by no command."""
    mine = world.folder / "host" / "project"
    for name in ("vm/debian/disk.qcow2", "lab/notes.txt", "lab/one/results.csv", "net/x/y", "host/a/b", "claims/c"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("precious")
    world.mark()
    there = elsewhere(world, mine)
    file = world.write(ONE)
    said = there.fails(1, "run", "-d", file)
    assert str(mine) in said
    assert "QEMUNET_RUNTIME_DIR" in said
    for words in (["gc"], ["ps"], ["stop", "debian"], ["stop", "one"], ["net", "list"], ["status", "lab"]):
        assert "not empty, and not qemunet's" in there.fails(1, *words)


def test_an_empty_directory_that_was_there_is_used_and_stays(world: World) -> None:
    there = elsewhere(world, world.folder / "host" / "mine")
    (world.folder / "host" / "mine").mkdir()
    world.mark()
    there.succeeds("run", "-d", world.write(ONE))
    there.succeeds("stop", "--force", "one")


@pytest.mark.parametrize("why", ["writable by all", "of another user", "a symlink of another user"])
def test_a_directory_that_others_can_change_is_refused(world: World, why: str) -> None:
    """Whoever can put something there could have root follow it anywhere."""
    place = world.folder / "host" / "mine"
    (world.folder / "host" / "real").mkdir(mode=0o700)
    if why == "writable by all":
        place.mkdir()
        place.chmod(0o777)
    elif why == "of another user":
        place.mkdir(mode=0o700)
        os.chown(place, 1234, 1234)
    else:
        place.symlink_to("real")
        os.lchown(place, 1234, 1234)
    world.mark()
    said = elsewhere(world, place).fails(1, "run", "-d", world.write(ONE))
    assert str(place) in said


def test_a_missing_parent_is_not_made(world: World) -> None:
    """What would be made on the way would be left behind."""
    place = world.folder / "host" / "no" / "such" / "run"
    said = elsewhere(world, place).fails(1, "run", "-d", world.write(ONE))
    assert str(place) in said
    assert "No such file or directory" in said


def test_a_parent_that_cannot_be_written_is_named(world: World) -> None:
    place = "/proc/self/run"
    said = elsewhere(world, Path(place)).fails(1, "run", "-d", world.write(ONE))
    assert place in said


def test_a_file_in_place_of_the_directory_is_named(world: World) -> None:
    place = world.folder / "host" / "run"
    place.write_text("precious")
    world.mark()
    said = world.fails(1, "run", "-d", world.write(ONE))
    assert str(place) in said
    assert place.read_text() == "precious"
    for words in (["ps"], ["gc"], ["stop", "one"]):
        world.qemunet(*words)


def test_the_directory_is_private_whatever_the_umask_is(world: World) -> None:
    world.succeeds("run", "-d", world.write(ONE), preexec_fn=lambda: os.umask(0))
    console = world.runtime / "vm" / "one" / "console.sock"
    until(console.exists, "the keeper's console, the last file that it makes under another name first")
    open_to_others = [
        str(path)
        for path in (world.runtime, *world.runtime.rglob("*"))
        if not stat.S_ISSOCK(path.lstat().st_mode) and path.lstat().st_mode & 0o077
    ]
    assert not open_to_others
    world.succeeds("stop", "--force", "one")


def test_a_path_that_is_too_long_for_sockets_works_throughout(world: World) -> None:
    """Start, the loss of the keeper, a new one that adopts, the user's monitor, stop."""
    folder = world.folder / "host" / ("d" * 120)
    folder.mkdir()
    world.mark()
    there = elsewhere(world, folder / "run")
    there.succeeds("run", "-d", world.write(ONE))
    until(lambda: list((folder / "run" / "lab").glob("*/pid")), "a keeper")
    (pidfile,) = (folder / "run" / "lab").glob("*/pid")
    until(lambda: pidfile.read_text().endswith("\n"), "its number")
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    assert "running" in there.succeeds("status", "one")
    there.succeeds("stop", "--force", "one")


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize("pages", [*range(3, 16)])
def test_a_full_runtime_directory_stops_a_start_with_one_clear_word(world: World, pages: int) -> None:
    """Whichever write is the one that fails: all is taken back, or the guest runs and can be stopped."""
    if why := lack_of_mounts():
        pytest.skip(why)
    file = world.write(ONE)
    place = world.folder / "host"
    script = (
        f"mount -t tmpfs -o size={4 * pages}k,mode=700 none {place} || exit 99; "
        f'"$1" run -d "$2"; echo "status $?"; '
        f'"$1" stop --force one; "$1" gc; ls -A {place}; ip -o link'
    )
    done = subprocess.run(
        [*MOUNTS, "sh", "-c", script, "sh", QEMUNET, file],
        env=world.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in told
    assert "a mistake" not in told
    ran = "status 0" in done.stdout
    assert ran or ("No space left on device" in done.stderr and "status 1" in done.stdout), told
    assert not ran or "one: QEMU was told to quit" in done.stderr, told
    assert "run" not in done.stdout.split("status")[1].split("1: lo")[0], told
    assert "qn-" not in done.stdout, told


# ---------------------------------------------------------------- streams, names, limits


def test_a_lab_file_may_lie_anywhere(world: World) -> None:
    """Blanks, commas, quotes and other alphabets, in the file's path and in that of a disk."""
    folder = world.folder / "my labs, “größe” 100% ❄ 'x'"
    folder.mkdir()
    (folder / "disk, a=b.raw").write_bytes(bytes(1 << 16))
    file = folder / "läb one.toml"
    file.write_text('[lab]\nname = "lab1"\n' + machine("one") + NETWORK + '[[vm.one.disk]]\nfile = "disk, a=b.raw"\n')
    world.succeeds("run", "-d", str(file))
    world.succeeds("stop", "--force", "one")


def test_a_name_that_is_no_text_is_told_and_does_not_matter(world: World) -> None:
    folder = world.folder / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "lab1.toml").write_text(machine("one"))
    world.fails(2, "run", "-d", str(folder / "lab1.toml"))


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "0<&- 2>&-"])
def test_closed_standard_streams_do_not_matter(world: World, closed: str) -> None:
    """No file of ours takes their place, neither here nor in the keeper nor in QEMU."""
    file = world.write(ONE)
    script = f'"$1" run -d "$2" {closed}; echo "status $?" >"$3"'
    answer = world.folder / "answer"
    subprocess.run(
        ["sh", "-c", script, "sh", QEMUNET, file, str(answer)], env=world.environment, timeout=60, check=True
    )
    assert answer.read_text() == "status 0\n"
    fds = Path(f"/proc/{world.keeper()}/fd")
    assert {str((fds / number).readlink()) for number in ("1", "2")} == {
        str(next(world.runtime.glob("lab/*/keeper.log")))
    }
    script = f'"$1" stop --force one {closed}; echo "status $?" >"$3"'
    subprocess.run(
        ["sh", "-c", script, "sh", QEMUNET, file, str(answer)], env=world.environment, timeout=60, check=True
    )
    assert answer.read_text() == "status 0\n"


def test_a_reader_that_goes_away_stops_nothing_half_way(world: World) -> None:
    """SIGPIPE: a start whose words nobody hears is a start all the same, and so is a stop."""
    file = world.write(ONE)
    for words in (["run", "-d", file], ["ps"], ["status", "one"], ["stop", "--force", "one"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([QEMUNET, *words], stdout=writer, stderr=writer, env=world.environment, timeout=60)
        os.close(writer)
        assert done.returncode in (0, 141), words


@pytest.mark.parametrize("limit", [8, 12, 16, 20, 24, 28, 32, 48])
def test_few_descriptors_are_enough_or_said_to_be_too_few(world: World, limit: int) -> None:
    file = world.write(ONE)
    few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    done = world.qemunet("run", "-d", file, before=few)
    if done.returncode == 0:
        world.succeeds("stop", "--force", "one")
        return
    assert done.returncode == 1, done.stderr
    assert "Too many open files" in done.stderr or "died" in done.stderr
    world.succeeds("gc")
